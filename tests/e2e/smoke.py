"""`make smoke`: the whole main job, headless, on free ports, in a folder that goes afterwards.

The last line is one JSON object of figures; the exit code tells whether it worked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e import walk
from tests.e2e.browser import chromium, fresh_page
from tests.instance import ROOT, Instance
from tests.session import Session

STUDY = "synthetic-demo"
UNMEASURED = "P003-section"


def main() -> int:
    began = time.perf_counter()
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="past-smoke-") as folder,
        Instance(Path(folder)) as app,
        chromium() as browser,
    ):
        figures["start_s"] = time.perf_counter() - began
        study = app.var / "study"
        subprocess.run(
            [sys.executable, "-m", "fixtures", "--size", "tiny", "--seed", "1", str(study)],
            cwd=ROOT,
            check=True,
        )
        with fresh_page(browser) as page:
            admin = walk.Visitor(page, app.url)
            admin.sign_in("admin")
            figures["import_s"] = walk.import_study(admin, study)
            app.manage("create_demo_users", "--study", STUDY)
            figures["train_s"] = walk.train(admin, STUDY)
            figures["predict_s"] = walk.predict(admin, STUDY, UNMEASURED)
        with fresh_page(browser) as page:
            member = walk.Visitor(page, app.url)
            member.sign_in("member")
            figures |= walk.view_gene(member, STUDY, UNMEASURED, ("EPCAM", "COL1A1"))
        with fresh_page(browser) as page:
            investigator = walk.Visitor(page, app.url)
            investigator.sign_in("investigator")
            figures |= walk.read_survival(investigator, STUDY, "Stage")
        models = Session.login(app.url, "member").get(f"/api/v1/studies/{STUDY}/models/")
        test = models["results"][0]["metrics"]["test"]
        figures["held_out_pcc_median"] = test["pcc_median"]
    figures["seconds"] = time.perf_counter() - began
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
