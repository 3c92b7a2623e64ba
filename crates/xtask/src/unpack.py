"""Keeps of the wheels in argv[1] what building and running on a CPU needs, in argv[2]."""

import pathlib
import sys
import zipfile

wheels, destination = map(pathlib.Path, sys.argv[1:])
(destination / "lib").mkdir(parents=True)
KEPT = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = pathlib.PurePosixPath(member.filename)
            if member.is_dir() or ".." in name.parts:
                continue
            if name.parts[:2] == ("torch", "include"):
                target = destination / pathlib.Path(*name.parts[1:])
            elif name.name in KEPT and name.parent.name == "lib":
                target = destination / "lib" / name.name
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                while chunk := source.read(1 << 20):
                    sink.write(chunk)
# torch-sys links -ltorch, which in the wheel would pull in CUDA; the CPU library has all that it looks for.
(destination / "lib" / "libtorch.so").write_text("INPUT(libtorch_cpu.so)\n")
