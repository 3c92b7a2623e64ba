"""Monarch's part of `lyceum bench`: as ray.py, with the calls and the creation of actors; it has no object store."""

import asyncio
import json
import os
import sys
import time

# Answers go where standard output was; whatever prints goes to standard error.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import importlib.metadata  # noqa: E402

import numpy  # noqa: E402
from monarch.actor import Actor, endpoint, this_host  # noqa: E402


class Target(Actor):
    def __init__(self):
        self.sum = 0

    @endpoint
    async def add(self, number):
        self.sum += number
        return self.sum

    @endpoint
    async def read(self, data):
        # Every byte, at the speed of memory.
        return int(data.view(numpy.uint64).sum())


async def one_at_a_time(call, millis):
    latencies, began = [], time.perf_counter()
    while time.perf_counter() - began < millis / 1e3:
        asked = time.perf_counter()
        await call()
        latencies.append((time.perf_counter() - asked) * 1e6)
    return {"done": len(latencies), "seconds": time.perf_counter() - began, "latencies_us": latencies}


async def in_flight(call, count, millis):
    done, began = 0, time.perf_counter()
    flying = [call() for _ in range(count)]
    while time.perf_counter() - began < millis / 1e3:
        # Half of them stay in flight while the other half is taken in and sent anew.
        landed, flying = flying[: count // 2], flying[count // 2 :]
        for one in landed:
            await one
        done += len(landed)
        flying += [call() for _ in landed]
    seconds = time.perf_counter() - began
    for one in flying:
        await one
    return {"done": done, "seconds": seconds, "latencies_us": []}


class Caller(Actor):
    def __init__(self, target):
        self.target = target

    @endpoint
    async def make(self, work, count, millis):
        if work == "one_at_a_time":
            return await one_at_a_time(lambda: self.target.add.call_one(1), millis)
        if work == "in_flight":
            return await in_flight(lambda: self.target.add.call_one(1), count, millis)
        if work == "bytes":
            data = numpy.ones(count, numpy.uint8)
            return await one_at_a_time(lambda: self.target.read.call_one(data), millis)
        raise ValueError(work)


async def create(count):
    began = time.perf_counter()
    meshes = [this_host().spawn_procs(per_host={"procs": 1}) for _ in range(count)]
    actors = [mesh.spawn("target", Target) for mesh in meshes]
    for answer in [actor.add.call_one(1) for actor in actors]:
        await answer
    seconds = time.perf_counter() - began
    for mesh in meshes:
        await mesh.stop()
    return {"done": count, "seconds": seconds, "latencies_us": []}


async def main():
    targets = this_host().spawn_procs(per_host={"procs": 1})
    callers = this_host().spawn_procs(per_host={"procs": 1})
    target = targets.spawn("target", Target)
    caller = callers.spawn("caller", Caller, target)
    await caller.make.call_one("one_at_a_time", 0, 1)
    version = importlib.metadata.version("torchmonarch")
    print(json.dumps({"version": version}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["work"] == "create":
            answer = await create(asked["count"])
        else:
            answer = await caller.make.call_one(asked["work"], asked["count"], asked["millis"])
        print(json.dumps(answer), file=answers, flush=True)
    await callers.stop()
    await targets.stop()


asyncio.run(main())
