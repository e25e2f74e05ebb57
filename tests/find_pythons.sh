#!/bin/sh
# Prints one Python of each version from 3.11 on that this machine has, of the PATH or of pyenv, one a line.
for minor in 11 12 13 14; do
    for candidate in "$(command -v "python3.$minor")" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.$minor.*/bin/python3.$minor; do
        # One that starts, is of this version and can make an environment: pyenv's shims and Debian's may not.
        if [ -x "$candidate" ] &&
            "$candidate" -c "import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
            echo "$candidate"
            break
        fi
    done
done
