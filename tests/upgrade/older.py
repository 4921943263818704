"""Run by a landed state's own software, in its own tree: `python older.py ROOT [COMMAND...]`.

Tells its demo in ROOT and leaves everything stopped. COMMAND is called before the daemon's first start, with the state
directory as its last word: whatever it makes of the database, this software is to live with. Its own doctor and status
are asked while the daemon answers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mover.demo.site import Site
from mover.demo.story import Story

SCALE = 0.02


def main(root: Path, command: list[str]) -> None:
    spawn = Site.start_daemon

    def prepared(site: Site) -> str:
        if command:
            subprocess.run([*command, str(site.state)], check=True)
        return spawn(site)

    Site.start_daemon = prepared  # type: ignore[method-assign, assignment]
    story = Story(root, scale=SCALE)
    try:
        story.prepare()
        story.tell()
        for words in ("doctor",), ("status",), ("db", "status"):
            ask(story, *words)
    finally:
        story.site.stop()


def ask(story: Story, *words: str) -> None:
    where = ["--config", str(story.site.config), "--url", story.url, "--token-file", str(story.site.token)]
    told = subprocess.run([sys.executable, "-m", "mover", *where, *words, "--json"], capture_output=True, text=True)
    (story.site.root / f"{'-'.join(words)}.told").write_text(f"{told.returncode}\n{told.stdout}{told.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
