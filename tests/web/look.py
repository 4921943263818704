"""Pictures of a running daemon with the pages of this checkout: `python -m tests.web.look URL TOKEN_FILE PATH...`

For who writes a page: no daemon starts again. Writes /light, /dark and /narrow pictures to ./look and says what the
browser complained of.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.web.browser import chromium, seen

LOOKS = (("light", "light", False), ("dark", "dark", False), ("narrow", "light", True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    parser.add_argument("paths", nargs="+", help="such as /runs; PATH::BUTTON presses a button first")
    parser.add_argument("--to", type=Path, default=Path("look"))
    said = parser.parse_args()
    said.to.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for look, theme, narrow in LOOKS:
            with seen(browser, said.url, theme=theme, narrow=narrow, checkout=True) as one:  # type: ignore[arg-type]
                one.sign_in(said.token_file.read_text().strip())
                for path in said.paths:
                    address, _, button = path.partition("::")
                    one.go(address)
                    one.settled()
                    if button:
                        one.page.get_by_role("button", name=button).first.click()
                        one.page.wait_for_timeout(1500)
                    name = (address.strip("/").replace("/", "-") or "overview") + (f"-{button}" if button else "")
                    one.page.screenshot(path=said.to / f"{name}-{look}.png", full_page=not button)
                    print(said.to / f"{name}-{look}.png")
                print(*one.complaints, sep="\n")


if __name__ == "__main__":
    main()
