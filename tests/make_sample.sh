#!/bin/sh
# The sample that ships in pipelines/sample: the first images of each class of Fashion-MNIST, in the order of its files.
# usage: make_sample.sh FASHION-MNIST-FOLDER SAMPLE-FOLDER
set -eu

[ $# -eq 2 ] || { echo "usage: make_sample.sh FASHION-MNIST-FOLDER SAMPLE-FOLDER" >&2; exit 2; }
mkdir -p "$2"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# first SPLIT IMAGES-PER-CLASS
first()
{
	python3 - "$1" "$scratch" "$3" "$2" <<'END'
import gzip, struct, sys
source, scratch, split, most = *sys.argv[1:4], int(sys.argv[4])
images = gzip.open(f"{source}/{split}-images-idx3-ubyte.gz").read()
labels = gzip.open(f"{source}/{split}-labels-idx1-ubyte.gz").read()[8:]
height, width = struct.unpack(">2I", images[8:16])
taken, keep = [0] * 10, []
for i, label in enumerate(labels):
    taken[label] += 1
    if taken[label] <= most:
        keep.append(i)
size = height * width
with open(f"{scratch}/{split}-images-idx3-ubyte", "wb") as f:
    f.write(struct.pack(">4I", 0x803, len(keep), height, width))
    f.writelines(images[16 + i * size:16 + (i + 1) * size] for i in keep)
with open(f"{scratch}/{split}-labels-idx1-ubyte", "wb") as f:
    f.write(struct.pack(">2I", 0x801, len(keep)) + bytes(labels[i] for i in keep))
END
	for file in "$3-images-idx3-ubyte" "$3-labels-idx1-ubyte"; do
		gzip -9nc "$scratch/$file" >"$4/$file.gz"
	done
}

first "$1" 600 train "$2"
first "$1" 200 t10k "$2"
