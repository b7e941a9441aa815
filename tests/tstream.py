"""Tensor streams from Python: the format of tensorstream(5), written from its page alone, to prove it from outside."""
import struct

import msgpack
import msgpack_numpy
import xxhash


def seal(obj):
    """One object's bytes: the map, with the hash of all before the hash as its last entry."""
    packer = msgpack.Packer(default=msgpack_numpy.encode, use_bin_type=True, unicode_errors="surrogateescape")
    out = packer.pack_map_header(len(obj) + 1)
    for key, value in obj.items():
        out += packer.pack(key)
        fixed = key == "length" and next(iter(obj)) == "trailer"
        out += b"\xcf" + struct.pack(">Q", value) if fixed else packer.pack(value)
    return out + b"\xa4xxh3\xcf" + xxhash.xxh3_64_digest(out)


class Writer:
    def __init__(self, path, kind, header=None):
        """kind: None where the header has it."""
        self.file, self.at, self.offsets, self.hashes = open(path, "wb"), 0, [], b""
        self.put({"tensorstream": 1, **({"kind": kind} if kind else {}), **(header or {})})
        self.offsets = []

    def put(self, obj):
        data = seal(obj)
        self.offsets.append(self.at)
        self.hashes += data[-8:][::-1]
        self.file.write(data)
        self.at += len(data)

    def finish(self):
        digest = xxhash.xxh3_64_intdigest(self.hashes)
        self.file.write(seal({"trailer": True, "frames": len(self.offsets), "offsets": self.offsets,
                              "hash": digest, "length": self.at}))
        self.file.close()


def read(path):
    """Header and frames of a whole stream; ValueError when anything in it does not verify."""
    data = open(path, "rb").read()
    unpacker = msgpack.Unpacker(object_hook=msgpack_numpy.decode, max_buffer_size=0)
    unpacker.feed(data)
    objects, at, hashes = [], 0, b""
    for obj in unpacker:
        end = unpacker.tell()
        if obj.pop("xxh3") != xxhash.xxh3_64_intdigest(data[at:end - 14]):
            raise ValueError(f"{path}: byte {at}: hash does not match")
        objects.append(obj)
        if not obj.get("trailer"):
            hashes += data[end - 8:end][::-1]
        elif obj["length"] != at or end != len(data) or obj["hash"] != xxhash.xxh3_64_intdigest(hashes):
            raise ValueError(f"{path}: trailer does not match")
        at = end
    if at != len(data) or not objects[-1].get("trailer") or objects[-1]["frames"] != len(objects) - 2:
        raise ValueError(f"{path}: truncated")
    return objects[0], objects[1:-1]
