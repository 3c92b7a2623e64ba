"""Ray's part of `lyceum bench`: reads a request a line, does one round of it, and answers with a line.

Request {"work": ..., "count": ..., "millis": ...}, answer {"done": ..., "seconds": ..., "latencies_us": [...]}, where the first
answer, before any request, is {"version": ...}. The caller is an actor in a process of its own, as in ours.
"""

import json
import os
import sys
import time

# Answers go where standard output was; whatever prints goes to standard error.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy  # noqa: E402
import ray  # noqa: E402
import ray.cluster_utils  # noqa: E402

MIB = 1 << 20


@ray.remote(num_cpus=0)
class Target:
    def __init__(self):
        self.sum = 0

    def add(self, number):
        self.sum += number
        return self.sum

    def read(self, data):
        # Every byte, at the speed of memory.
        return int(data.view(numpy.uint64).sum())


def one_at_a_time(call, millis):
    latencies, began = [], time.perf_counter()
    while time.perf_counter() - began < millis / 1e3:
        asked = time.perf_counter()
        ray.get(call())
        latencies.append((time.perf_counter() - asked) * 1e6)
    return {"done": len(latencies), "seconds": time.perf_counter() - began, "latencies_us": latencies}


def in_flight(call, count, millis):
    done, began = 0, time.perf_counter()
    flying = [call() for _ in range(count)]
    while time.perf_counter() - began < millis / 1e3:
        # Half of them stay in flight while the other half is taken in and sent anew.
        landed, flying = flying[: count // 2], flying[count // 2 :]
        ray.get(landed)
        done += len(landed)
        flying += [call() for _ in landed]
    seconds = time.perf_counter() - began
    ray.get(flying)
    return {"done": done, "seconds": seconds, "latencies_us": []}


@ray.remote(num_cpus=0)
class Caller:
    def make(self, target, work, count, millis):
        if work == "one_at_a_time":
            return one_at_a_time(lambda: target.add.remote(1), millis)
        if work == "in_flight":
            return in_flight(lambda: target.add.remote(1), count, millis)
        if work == "bytes":
            data = numpy.ones(count, numpy.uint8)
            return one_at_a_time(lambda: target.read.remote(data), millis)
        raise ValueError(work)


def create(count):
    began = time.perf_counter()
    actors = [Target.remote() for _ in range(count)]
    ray.get([actor.add.remote(1) for actor in actors])
    seconds = time.perf_counter() - began
    for actor in actors:
        ray.kill(actor)
    return {"done": count, "seconds": seconds, "latencies_us": []}


@ray.remote(num_cpus=0)
class Holder:
    def put(self, count, millis):
        data, taken = self.data(count), []
        began = time.perf_counter()
        while not taken or time.perf_counter() - began < millis / 1e3:
            asked = time.perf_counter()
            ref = ray.put(data)
            taken.append(time.perf_counter() - asked)
            del ref
        return moved(count, taken)

    def make(self, count):
        return [ray.put(self.data(count))]

    def data(self, count):
        if not hasattr(self, "kept") or self.kept.nbytes != count:
            self.kept = numpy.ones(count, numpy.uint8)
        return self.kept


@ray.remote(num_cpus=0)
class Fetcher:
    def fetch(self, refs):
        began = time.perf_counter()
        value = ray.get(refs[0])
        seconds = time.perf_counter() - began
        return value.nbytes, seconds


def moved(count, taken):
    """A round that counts MiB."""
    return {"done": len(taken) * count // MIB, "seconds": sum(taken), "latencies_us": [one * 1e6 for one in taken]}


class Pair:
    """Two nodes, for what is done with objects. They take the place of the one."""

    def __init__(self):
        ray.shutdown()
        node = {"num_cpus": 1, "object_store_memory": 1 << 30, "include_dashboard": False}
        self.cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "resources": {"a": 1}})
        del node["include_dashboard"]
        self.cluster.add_node(**node, resources={"b": 1})
        self.cluster.wait_for_nodes()
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="error")
        self.holder = Holder.options(resources={"a": 0.1}).remote()
        self.fetcher = Fetcher.options(resources={"b": 0.1}).remote()

    def put(self, count, millis):
        return ray.get(self.holder.put.remote(count, millis))

    def fetch(self, count, millis):
        taken, began = [], time.perf_counter()
        while not taken or time.perf_counter() - began < millis / 1e3:
            # A new object each time: the other node keeps a copy of one that it has fetched.
            refs = ray.get(self.holder.make.remote(count))
            size, seconds = ray.get(self.fetcher.fetch.remote(refs))
            assert size == count, size
            taken.append(seconds)
        return moved(count, taken)


def main():
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="error")
    target, caller = Target.remote(), Caller.remote()
    ray.get(caller.make.remote(target, "one_at_a_time", 0, 1))
    pair = None
    print(json.dumps({"version": ray.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["work"] in ("put", "fetch"):
            pair = pair or Pair()
            answer = getattr(pair, asked["work"])(asked["count"], asked["millis"])
        elif asked["work"] == "create":
            answer = create(asked["count"])
        else:
            answer = ray.get(caller.make.remote(target, asked["work"], asked["count"], asked["millis"]))
        print(json.dumps(answer), file=answers, flush=True)
    ray.shutdown()
    if pair:
        pair.cluster.shutdown()


main()
