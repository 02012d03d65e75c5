"""A signed-in HTTP session, as a script of a lab would hold one: cookies, CSRF, JSON."""

from __future__ import annotations

import http.cookiejar
import json
import time
import urllib.parse
import urllib.request
from typing import Any

from tests.instance import PASSWORDS


class Session:
    def __init__(self, url: str) -> None:
        self.url = url
        self._jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))

    @classmethod
    def login(cls, url: str, role: str) -> Session:
        session = cls(url)
        session.open("/accounts/login/")
        session.open(
            "/accounts/login/",
            urllib.parse.urlencode(
                {
                    "username": role,
                    "password": PASSWORDS[role],
                    "csrfmiddlewaretoken": session._csrf,
                }
            ).encode(),
        )
        if not any(cookie.name == "sessionid" for cookie in session._jar):
            raise RuntimeError(f"Could not sign in as {role}.")
        return session

    @property
    def _csrf(self) -> str:
        return next((c.value or "" for c in self._jar if c.name == "csrftoken"), "")

    def open(self, path: str, data: bytes | None = None, content_type: str = "") -> bytes:
        headers = {"Referer": self.url, "X-CSRFToken": self._csrf}
        if content_type:
            headers["Content-Type"] = content_type
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with self._opener.open(request, timeout=60) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        return json.loads(self.open(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return json.loads(self.open(path, json.dumps(body).encode(), "application/json"))

    def wait(self, job: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
        """Follows a job to its end; raises with the job's own words where it did not succeed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.get(f"/api/v1/jobs/{job['id']}/")
            if job["status"] == "succeeded":
                return job
            if job["status"] in ("failed", "cancelled"):
                raise RuntimeError(f"{job['title']} {job['status']}: {job['failure']}")
            time.sleep(0.5)
        raise RuntimeError(f"{job['title']} still {job['status']} after {seconds:.0f} s")
