"""Sends requests from many clients until a file appears, and accounts for every single one.

Usage: load.py ADDRESS PORT STOP_FILE. Prints one line: requests, failed, answers by page; then the failures.
Nothing is tried again: refused, reset, closed early, timeout and any status but 200 are failures.
"""
import collections
import http.client
import os
import sys
import threading
import time

address, port, stop_file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
lock, answers, failures = threading.Lock(), collections.Counter(), collections.Counter()


def client(keep, with_cookie):
    connection, cookie = None, None
    while not os.path.exists(stop_file):
        try:
            if connection is None:
                connection = http.client.HTTPConnection(address, port, timeout=10)
            headers = {"Host": "dummy.local"}
            if not keep:
                headers["Connection"] = "close"
            if cookie:
                headers["Cookie"] = cookie
            connection.request("GET", "/", headers=headers)
            answer = connection.getresponse()
            body = answer.read().decode().strip()
            outcome = (answers, body) if answer.status == 200 else (failures, f"status {answer.status}")
            new = answer.getheader("Set-Cookie")
            if with_cookie and new:
                cookie = new.split(";")[0]
        except Exception as error:  # every error that a client can see is a failure with its name
            outcome = (failures, f"{type(error).__name__}: {error}")
            connection = None
        with lock:
            outcome[0][outcome[1]] += 1
        if not keep and connection is not None:
            connection.close()
            connection = None
        time.sleep(0.01)


kinds = [(True, True), (True, False), (False, False)] * 5
threads = [threading.Thread(target=client, args=kind) for kind in kinds]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
total, failed = sum(answers.values()) + sum(failures.values()), sum(failures.values())
print(f"{total} requests, {failed} failed; " + ", ".join(f"{n} x {page}" for page, n in sorted(answers.items())))
for reason, count in failures.items():
    print(f"failed: {count} x {reason}")
sys.exit(1 if failed or total < 1000 else 0)
