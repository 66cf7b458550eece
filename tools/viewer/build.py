"""Rebuild src/compand/report/viewer.js.gz, the splat renderer of `compand view`, from npm: the versions and hashes of package-lock.json.

    python tools/viewer/build.py
"""

import gzip
import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "src" / "compand" / "report" / "viewer.js.gz"
PARTS = {"@sparkjsdev/spark": "LICENSE", "three": "LICENSE", "fflate": "LICENSE"}


def notice() -> str:
    """The licences of everything in the bundle, as the comment it begins with."""
    lines = ["Bundled by compand's tools/viewer/build.py. It holds the packages below, each under the MIT licence."]
    for name, file in PARTS.items():
        folder = HERE / "node_modules" / name
        about = json.loads((folder / "package.json").read_text())
        assert about["license"] == "MIT", (name, about["license"])
        text = "\n".join(line.rstrip() for line in (folder / file).read_text().strip().splitlines())
        assert "*/" not in text
        lines += ["", f"{name} {about['version']}", "", text]
    return "/*!\n" + "\n".join(lines) + "\n*/"


def main() -> None:
    """Install what the lock file names, bundle, compress."""
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=HERE, check=True)
    made = HERE / "node_modules" / "viewer.js"
    subprocess.run(["node_modules/.bin/esbuild", "viewer.js", "--bundle", "--minify", "--format=esm", "--target=es2022", "--charset=utf8",
                    "--legal-comments=none", f"--banner:js={notice()}", f"--outfile={made}"], cwd=HERE, check=True)
    script = made.read_bytes()
    assert b"</script" not in script.lower(), "the bundle cannot stand in a page"
    OUT.write_bytes(gzip.compress(script, 9, mtime=0))
    print(f"{OUT.name}: {len(script):,} bytes, {OUT.stat().st_size:,} compressed")


if __name__ == "__main__":
    main()
