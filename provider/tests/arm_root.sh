#!/bin/sh
# Make a root file system of arm64 with Python, for the emulator: sh arm_root.sh FOLDER
# It needs apt and dpkg. The packages are those of this system's release. They are unpacked, not installed.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/archives/partial" "$scratch/root/usr/bin" "$scratch/root/usr/lib"
touch "$scratch/status"
cat > "$scratch/apt.conf" << END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "";
Dir::State "$scratch";
Dir::State::status "$scratch/status";
Dir::Cache "$scratch";
END
export APT_CONFIG="$scratch/apt.conf"
apt-get -qq update
apt-get -qq --yes --no-install-recommends --download-only install python3 libstdc++6
ln -s usr/bin usr/lib "$scratch/root"
for package in "$scratch"/archives/*.deb; do dpkg -x "$package" "$scratch/root"; done
mkdir -p "$(dirname "$1")"
mv "$scratch/root" "$1"
