#!/usr/bin/env bash
# Rewrites base.txt, dev.txt, hardware.txt, sweep.txt, captures.txt, torch-cpu.txt and torch-cuda.txt from *.in and what the current .venv has
# installed (made by `make setup`, then upgraded by hand). Hashes, no addresses. Needs `uv`.
set -euo pipefail
cd "$(dirname "$0")"
venv=../.venv/bin
torch=2.13.0
work=$(mktemp -d)
flags=(--python-version 3.11 --python-platform x86_64-manylinux_2_36 --generate-hashes --no-emit-index-url
       --no-emit-find-links --no-annotate --no-header --quiet)
closure() {  # the installed distributions that the requirements in $1 need, as pins
  "$venv/python" - "$1" <<'PY'
import re, sys
from importlib import metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
todo = [Requirement(l.split("#")[0].strip()) for l in open(sys.argv[1]) if re.match(r"[a-z]", l)]
seen = {}
while todo:
    need = todo.pop()
    name = canonical(need.name)
    key = (name, tuple(sorted(need.extras)))
    if key in seen or name == "torch":
        continue
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        sys.exit(f"{name} is not installed in .venv")
    seen[key] = found.version
    for line in found.requires or []:
        child = Requirement(line)
        extras = [""] + list(need.extras)
        if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
            todo.append(child)
print("\n".join(sorted({f"{name}=={version}" for (name, _), version in seen.items()})))
PY
}
cat base.in > "$work/base.in"; printf 'filelock\nsympy\nnetworkx\njinja2\nfsspec\ntyping-extensions\nsetuptools\n' >> "$work/base.in"  # torch's own
closure "$work/base.in" > "$work/base.pins"
closure dev.in > "$work/dev.all"
grep -vxFf "$work/base.pins" "$work/dev.all" > "$work/dev.pins"
uv() { "$venv/uv" pip compile "${flags[@]}" "$@"; }
uv --no-deps "$work/base.pins" -o base.txt > /dev/null
uv --no-deps "$work/dev.pins" -o dev.txt > /dev/null
uv --no-deps hardware.in -o hardware.txt > /dev/null
uv --no-deps sweep.in -o sweep.txt > /dev/null
uv --no-deps captures.in -o captures.txt > /dev/null
if [ -x ../.nerfstudio/bin/python ]; then  # its own pins, from its own environment (make setup-nerfstudio)
  (venv=../.nerfstudio/bin; closure nerfstudio.in) > "$work/nerfstudio.pins"
  uv --no-deps "$work/nerfstudio.pins" -o nerfstudio.txt > /dev/null
fi
without_base() { "$venv/python" - "$1" "$work/base.pins" <<'PY'
import re, sys
base = {line.split("==")[0] for line in open(sys.argv[2])}
blocks = re.split(r"(?m)^(?=[a-z])", open(sys.argv[1]).read())
print("".join(b for b in blocks if b and b.split("==")[0] not in base), end="")
PY
}
# The CUDA build brings packages of its own; the CPU build brings none beyond base.txt.
echo "torch==$torch" > "$work/torch.in"
uv "$work/torch.in" -c "$work/base.pins" -o "$work/torch.txt" > /dev/null
without_base "$work/torch.txt" > torch-cuda.txt
wheels=$(mktemp -d)
"$venv/pip" download -q --no-deps -d "$wheels" "torch==$torch"
{ echo "torch==$torch \\"; sha256sum "$wheels"/torch-*+cpu*.whl | sed 's/ .*//; s/^/    --hash=sha256:/'; } > torch-cpu.txt
rm -rf "$work" "$wheels"
