#!/bin/sh
# Link profiles/slurm to where `snakemake --profile slurm` looks for it. Never replaces another profile.
set -eu
profile=$(cd "$(dirname "$0")/slurm" && pwd -P)
target=${XDG_CONFIG_HOME:-$HOME/.config}/snakemake/slurm
if [ -e "$target" ] || [ -L "$target" ]; then
    if [ "$(cd "$target" 2>/dev/null && pwd -P)" = "$profile" ]; then
        echo "$target already links to $profile."
        exit 0
    fi
    echo "error: $target: found another profile; expected nothing, or a link to $profile. Rename or delete it first." >&2
    exit 1
fi
mkdir -p "$(dirname "$target")"
ln -s "$profile" "$target"
echo "Linked $target to $profile: 'snakemake --profile slurm' now uses it. To undo: rm '$target'"
