"""The report opens in a real browser: everything it shows is in the file, and nothing complains."""

import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browsed(study, tmp_path_factory):
    """The page as the browser sees it, and what the browser logged."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine to open the page with")
    profile = tmp_path_factory.mktemp("profile")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-quic", f"--user-data-dir={profile}", "--enable-logging=stderr",
        "--virtual-time-budget=2000", "--dump-dom", study.report.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_the_page_renders_without_messages(browsed, study):
    page, log = browsed
    text = re.sub(r"<[^>]*>|\s+", " ", page)
    assert study.answer.split(":")[0] in text
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []


def test_every_picture_is_in_the_file(browsed):
    page, _ = browsed
    sources = re.findall(r"<img[^>]*\ssrc=\"([^\"]{0,20})", page)
    assert len(sources) >= 3
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "<script" not in page
