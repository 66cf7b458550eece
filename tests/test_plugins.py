"""A stage of another package, found by its entry point and imported only when its name is used."""

import subprocess
import sys

STAGE = '''
from compand.stage import Part, Quantizer
class Sevenths(Quantizer, name="sevenths"):
    exact = True
    def layout(self, form): return {"codes": Part((form.n, form.d), k=256)}
    def encode(self, x): return {"codes": (x * 7).round().clip(-128, 127) + 128}
    def decode(self, parts, form): return (parts["codes"].astype("float32") - 128) / 7
'''
USE = '''
import sys, numpy as np, compand
assert "sevenths" in compand.stage_names() and "plug_in" not in sys.modules
x = np.array([[1., 2.]], np.float32)
print(compand.Codec.decompress(compand.Codec("sevenths").compress(x)), compand.Codec("sevenths,rans").spec)
'''


def test_entry_point_stage_is_found(tmp_path):
    (tmp_path / "plug_in.py").write_text(STAGE)
    info = tmp_path / "plug_in-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[compand.stages]\nsevenths = plug_in:Sevenths\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}){USE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "[[1. 2.]] sevenths,rans", done.stderr
