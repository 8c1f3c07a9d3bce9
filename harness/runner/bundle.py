"""The probe as bytes: one zip, and the loader that takes it from standard input.

Rule: nothing is written on the machine. The loader is the only text on a command line;
it reads two length-prefixed blocks (the zip, the configuration) and leaves standard
input to the probe's commands.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# `python3 -` would wait for the end of input, which here is the order to leave. Single
# quotes do not occur, so that a remote shell can take it between them. Reads are
# unbuffered: what follows belongs to the probe.
LOADER = """
import io,json,linecache,os,struct,sys,zipfile
from importlib.machinery import ModuleSpec
def take(n):
    b=b""
    while len(b)<n:
        d=os.read(0,n-len(b))
        if not d: sys.exit(3)
        b+=d
    return b
def block(): return take(struct.unpack(">I",take(4))[0])
z=zipfile.ZipFile(io.BytesIO(block()))
class F:
    def find_spec(self,name,path=None,target=None):
        p=name=="probe"
        f="probe/__init__.py" if p else name.replace(".","/")+".py"
        if name.split(".")[0]!="probe" or f not in z.namelist(): return None
        s=ModuleSpec(name,self,origin=f,is_package=p)
        return s
    def create_module(self,spec): return None
    def exec_module(self,m):
        f=m.__spec__.origin
        t=z.read(f).decode()
        linecache.cache[f]=(len(t),None,t.splitlines(True),f)
        exec(compile(t,f,"exec"),m.__dict__)
sys.meta_path.insert(0,F())
c=json.loads(block())
from probe.main import main
main(c)
"""


def archive() -> bytes:
    """The probe's modules as a zip; the same source gives the same bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        folder = resources.files("harness.probe")
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith(".py"):
                info = zipfile.ZipInfo(f"probe/{file.name}")
                bundle.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return target.getvalue()


def opening(config: Mapping[str, Any]) -> bytes:
    """What the loader reads first: the zip and the configuration, each with its length."""
    blocks = (archive(), json.dumps(dict(config)).encode())
    return b"".join(struct.pack(">I", len(block)) + block for block in blocks)
