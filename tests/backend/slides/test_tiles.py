"""Tiles and thumbnails: JPEG bytes for a signed token, without a database."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import pytest
from django.core.signing import BadSignature

from backend.slides.tokens import MAX_AGE_S, TokenExpired, make_token, read_token
from tests.backend.rows import add_slide

JPEG = b"\xff\xd8\xff"


@pytest.fixture
def slide(object_store, study):
    return add_slide(study, size=600)


@pytest.fixture
def document(slide, make_user, client):
    client.force_login(make_user("member"))
    answer = client.get(f"/api/v1/slides/{slide.pk}/").json()
    client.logout()
    return answer


def tile(document, z, x, y):
    return document["tile_url"].format(z=z, x=x, y=y)


def test_every_tile_is_a_jpeg_and_needs_no_query(document, client, django_assert_num_queries):
    z = document["levels"] - 1
    with django_assert_num_queries(0):
        for x in range(3):
            for y in range(3):
                response = client.get(tile(document, z, x, y))
                assert response.status_code == 200
                assert response["Content-Type"] == "image/jpeg"
                assert response.content[:3] == JPEG
                assert response["Cache-Control"].startswith("private, max-age=")
                assert not response.cookies
        assert client.get(tile(document, 0, 0, 0)).content[:3] == JPEG


def test_a_thumbnail_needs_no_query(document, client, django_assert_num_queries):
    with django_assert_num_queries(0):
        response = client.get(document["thumbnail_url"])
        assert b"".join(response.streaming_content)[:3] == JPEG


@pytest.mark.parametrize("place", [(0, 1, 0), (9, 0, 0), (2, 3, 0), (2, 0, 3)])
def test_tiles_outside_the_slide_are_not_found(document, client, place):
    assert client.get(tile(document, *place)).status_code == 404


def test_what_is_no_number_is_no_address(document, client):
    address = document["tile_url"].replace("{z}", "-1").replace("{x}", "0").replace("{y}", "0")
    assert client.get(address).status_code == 404


def test_a_changed_token_is_refused(document, client):
    address = tile(document, 0, 0, 0)
    token = address.split("/")[2]
    for wrong in (token[:-1] + ("a" if token[-1] != "a" else "b"), "x" + token[1:], "a:b", "none"):
        assert client.get(address.replace(token, wrong)).status_code == 403, wrong
        assert client.get(f"/thumbnails/{wrong}.jpg").status_code == 403, wrong


def test_an_old_token_is_refused(slide, client):
    old = make_token(
        sha256=slide.artifact.sha256, uri=slide.artifact.uri, user_id=1,
        now=time.time() - MAX_AGE_S - 1,
    )  # fmt: skip
    assert client.get(f"/tiles/{old}/0/0/0.jpg").status_code == 403


def test_a_slide_that_left_the_store_is_not_found(client, object_store):
    token = make_token(sha256="0" * 64, uri=f"00/{'0' * 64}.tif", user_id=1)
    assert client.get(f"/tiles/{token}/0/0/0.jpg").status_code == 404
    assert client.get(f"/thumbnails/{token}.jpg").status_code == 404


def test_tiles_are_only_read(document, client):
    assert client.post(tile(document, 0, 0, 0)).status_code == 405


@pytest.mark.parametrize("second", [0, 1, 899, 1799])
def test_a_token_lives_between_half_an_hour_and_an_hour(second):
    start = 1_800_000_000 + second
    token = make_token(sha256="a", uri="b", user_id=7, now=start)
    slide = read_token(token, now=start + MAX_AGE_S / 2)
    assert (slide.sha256, slide.uri, slide.user_id) == ("a", "b", 7)
    with pytest.raises(TokenExpired):
        read_token(token, now=start + MAX_AGE_S + 1)
    with pytest.raises(BadSignature):
        read_token(token + "x")


def test_reloading_gives_the_same_addresses_so_that_the_browser_has_the_tiles():
    start = 1_800_000_000
    tokens = {make_token(sha256="a", uri="b", user_id=7, now=start + s) for s in (0, 60, 1700)}
    assert len(tokens) == 1


def test_tile_addresses_are_not_links_elsewhere(document):
    assert not urlsplit(document["tile_url"]).netloc
