"""agrees.py PLACE: whether rules, record, processes and disk of the agent in PLACE agree."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time

place = sys.argv[1]


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(f"{place}/agent.sock")


def ask(path):
    link = Unix("agent", timeout=30)
    link.request("GET", path)
    answer = link.getresponse()
    assert answer.status == 200, (path, answer.status, answer.read())
    return json.loads(answer.read())


def rules(program):
    saved = subprocess.run([program, "-t", "nat"], capture_output=True, text=True, check=True).stdout
    return {tuple(map(int, pair)) for pair in re.findall(r"--dport (\d+) .*--to-ports (\d+)", saved)}


def led(record):
    if record["access"] == "private":
        return set()
    found = set()
    if record["switch"] == "on":
        found.add((record["forward"]["check"], record["forward"]["target"]))
    routes = record["routes"]
    for leg in [routes["main"], routes["backup"]] if routes else []:
        found.add((leg["port"], leg["target"]))
    return found


def wrongs():
    view = ask("/v1/deployments")
    deployments = {one["deployment"]["id"]: one["deployment"] for one in view["deployments"]}
    for one in deployments.values():
        if one["stage"] != "ready" or one["other_instance"]:
            yield f"{one['id']} is {one['stage']}"
    wanted = set().union(*(led(record) for record in view["services"])) if view["services"] else set()
    found = rules("iptables-save")
    if found != wanted:
        yield f"rules {sorted(found)}, record {sorted(wanted)}"
    for record in view["services"]:
        for leg in [record["routes"]["main"], record["routes"]["backup"]] if record["routes"] else []:
            one = deployments.get(leg["deployment"])
            if one is None or one["instance"]["port"] != leg["target"]:
                yield f"{record['forward']['service']}: {leg} leads to nothing that is there"
    # A deployment that was merged into another one keeps the names of its instances.
    ours = {f"{one.get('started_as') or one['id']}-{one['instance']['build']}" for one in deployments.values() if "external" not in one["instance"]["how"]["workload"]}
    kept = set(os.listdir(f"{place}/state/instances")) if os.path.isdir(f"{place}/state/instances") else set()
    if kept != ours:
        yield f"instances {sorted(kept)}, deployments {sorted(ours)}"
    used = {
        (one["service"], one["version"] + (f"~{one['instance']['build']}" if one["instance"]["build"] > 1 else ""))
        for one in deployments.values() if one["instance"]["digest"]
    }
    placed = set()
    for service in os.listdir(f"{place}/releases") if os.path.isdir(f"{place}/releases") else []:
        if service.startswith("."):
            continue
        placed |= {(service, name) for name in os.listdir(f"{place}/releases/{service}/releases") if not name.startswith(".")}
    if used - placed:
        yield f"deployments without their release: {sorted(used - placed)}"
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    serving = sum(1 for line in running if "-m http.server" in line)
    if serving > len(ours):
        yield f"{serving} programs run for {len(ours)} deployments"
    if any(line.startswith("/bin/false") for line in running):
        yield "a program of a refused deployment runs"


# It was not only refused.
answers = json.load(open(f"{place}/answers.json", encoding="utf-8"))
if os.environ.get("FUZZ_WHY"):
    print("\n".join(f"{n} {k}" for k, n in answers.items() if k.startswith("why")))
for done in ["POST /deployments 201", "DELETE /deployments/{id} 202", "PUT /deployments/{id} 200", "PUT /services/{service}/main 200"]:
    print(f"fuzz: {done}: {answers.get(done, 0)} times")
    if not answers.get(done):
        sys.exit(f"fuzz: never {done}: {answers}")

# What was under way when the last request ended may end.
for _ in range(100):
    found = list(wrongs())
    if not found:
        break
    time.sleep(0.1)
for wrong in found:
    print(f"fuzz: {wrong}", file=sys.stderr)
view = ask("/v1/deployments")
print(f"fuzz: {len(view['deployments'])} deployments, {len(view['services'])} services, all agree" if not found else "fuzz: FAILED")
sys.exit(bool(found))
