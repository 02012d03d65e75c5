"""The main job, clicked through in a real browser on the whole application."""

from __future__ import annotations

import pytest

from tests.e2e import walk
from tests.e2e.browser import fresh_page

STUDY = "synthetic-demo"
UNMEASURED = "P003-section"

pytestmark = pytest.mark.e2e


def test_import_train_predict_view_and_read_survival(app, browser, tiny_study):
    with fresh_page(browser) as page:
        admin = walk.Visitor(page, app.url)
        admin.sign_in("admin")
        walk.import_study(admin, tiny_study)
        app.manage("create_demo_users", "--study", STUDY)
        walk.train(admin, STUDY, epochs=2, preset="tiny")
        walk.predict(admin, STUDY, UNMEASURED)
        walk.evaluate(admin, STUDY)
    with fresh_page(browser) as page:
        member = walk.Visitor(page, app.url)
        member.sign_in("member")
        walk.view_gene(member, STUDY, UNMEASURED, ("EPCAM", "COL1A1"))
        walk.view_types(member, STUDY, UNMEASURED)
    with fresh_page(browser) as page:
        investigator = walk.Visitor(page, app.url)
        investigator.sign_in("investigator")
        walk.read_survival(investigator, STUDY, "Stage")
