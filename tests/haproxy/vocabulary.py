#!/usr/bin/env python3
"""Asks HAProxy programs which words they know, and prints src/lint/vocabulary.txt: vocabulary.py VERSION=PROGRAM... MANUAL...

Words are those that `haproxy -dKall` lists, and all words of the manuals (configuration.html of haproxy-doc). Each is
tried as the first word of a line of every section, and as an option, by `haproxy -c`.
"""

import re
import subprocess
import sys
import tempfile

# Sections whose words are tried; `listen` stands for all proxies. A file with an error in another section is not read on.
SECTIONS = ["global", "listen", "peers", "resolvers", "userlist"]
OTHER_SECTIONS = {
    "frontend", "backend", "defaults", "mailers", "cache", "http-errors", "fcgi-app", "program", "ring", "log-forward", "log-profile", "crt-store", "traces", "acme", "healthcheck",
}
HEADERS = {"global": "global"}
# A file may have at most 50 errors.
BATCH = 45
WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{1,47}")


def check(program, text, *flags):
    """Runs `haproxy -c` on a text and returns what it prints."""
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(text)
        file.flush()
        result = subprocess.run([program, *flags, "-c", "-f", file.name], capture_output=True, check=False)
    return (result.stdout + result.stderr).decode("latin-1")


def list_candidates(manuals):
    words = set()
    for manual in manuals:
        texts = re.split(r"[^a-zA-Z0-9_.-]+", open(manual, encoding="utf-8").read())
        words |= {text for text in texts if WORD.fullmatch(text)}
    return words


def build_lines(section, prefix, words):
    """The words as lines, each in a section of its own, so that none depends on another."""
    headers = (HEADERS.get(section, f"{section} swm{number}") for number, _ in enumerate(words))
    return "global\n expose-experimental-directives\n" + "".join(
        f"{header}\n {prefix}{word}\n" for header, word in zip(headers, words))


def probe(program, candidates, section, prefix, unknown):
    """The candidates that are no unknown word after the header and the prefix."""
    words, likely = sorted(candidates - set(SECTIONS) - OTHER_SECTIONS), set()
    for start in range(0, len(words), BATCH):
        batch = words[start:start + BATCH]
        likely |= set(batch) - set(unknown.findall(check(program, build_lines(section, prefix, batch))))
    # A word can end the reading of a file, and so keep the next ones from being tried.
    return {word for word in likely if word not in unknown.findall(check(program, build_lines(section, prefix, [word])))}


def list_expected(program, line, section="listen"):
    """The words that an error message says are expected."""
    text = check(program, f"{section} x\n {line}\n")
    found = next((text for text in text.splitlines() if "ALERT" in text), "")
    found = re.split(r"expects|supports|expected", found, maxsplit=1)[-1]
    found = re.split(r"but got|got '| in listen", found)[0]
    return {word.rstrip("*").removesuffix("(*)") for word in re.findall(r"'([^' ]+)'", found)}


def read_dump(program):
    """The words of `-dKall`."""
    kind, words = "", set()
    text = subprocess.run([program, "-dKall", "-q", "-c", "-f", "/dev/null"], capture_output=True, check=False)
    for line in text.stdout.decode("latin-1").splitlines():
        if line.startswith("# List of registered"):
            kind = line
        elif "ACL keywords" in kind:
            words.add(("acl", line.split(" ")[0]))
        elif "converter" in kind:
            words.add(("converter", re.split(r"[(:]", line)[0]))
        elif "sample fetch" in kind and line.startswith("["):
            words.add(("fetch", re.split(r"[(:]", line.split("] ")[1])[0]))
        elif "service names" in kind:
            words.add(("service", line.strip()))
        elif "filter names" in kind:
            words.add(("filter", line.strip().split(" ")[0]))
        elif "configuration keywords" in kind:
            match = re.match(r"\t(server <name> <addr>|bind <addr>)(?: ssl)? (\S+)(?: \+(-?\d+))?", line)
            if match:
                words.add((match[1].split()[0] + (" value" if match[3] else " flag"), match[2]))
            match = re.match(r"\t(tcp-request \w+|tcp-response \w+|http-request|http-response|http-after-response|quic-initial) (\S+)", line)
            if match:
                words.add((match[1], match[2].rstrip("*")))
            match = re.match(r"\toption (\S+) \[", line)
            if match:
                words.add(("option flag", match[1]))
    return words


def is_removed(program, kind, word):
    line = word if kind == "listen" else f"option {word}"
    return re.search(r"not supported any|doesn't exist any|is not supported", check(program, f"listen swm\n {line} x\n")) is not None


def read_version(program):
    words = read_dump(program)
    for action in ["http-request", "http-response", "http-after-response"]:
        words |= {(action, word) for word in list_expected(program, f"{action} swm-none")}
    for action in ["tcp-request connection", "tcp-request session", "tcp-request content", "tcp-response content"]:
        words |= {(action, word) for word in list_expected(program, f"{action} swm-none")}
    # Listed only as the class of the words after them.
    words |= {("bind flag", "ssl"), ("server flag", "no-verifyhost"), ("bind value", "ech")}
    words |= {("stats", word) for word in list_expected(program, "stats swm-none")}
    return words


def main():
    programs = dict(arg.split("=", 1) for arg in sys.argv[1:] if "=" in arg)
    manuals = [arg for arg in sys.argv[1:] if "=" not in arg]
    candidates = list_candidates(manuals)
    found = {}
    for number, program in enumerate(programs.values()):
        words = read_version(program)
        own = candidates | {word for _, word in words}
        for section in SECTIONS:
            if f"unknown keyword '{section}'" in check(program, f"global\n{HEADERS.get(section, section + ' x')}\n"):
                continue
            words.add(("section", section))
            unknown = re.compile(r"unknown (?:keyword|statement) '([^']+)'")
            print(f"{program} {section}", file=sys.stderr)
            words |= {(section, word) for word in probe(program, own, section, "", unknown)}
        words |= {("option", word) for word in probe(program, own, "listen", "option ", re.compile(r"unknown option '([^']+)'"))}
        refused = re.compile(r"'timeout' supports .* \(got '([^']+)'\)")
        words |= {("timeout", word) for word in probe(program, own, "listen", "timeout ", refused)}
        # Known by name only, to say what replaces them.
        words = {(kind, word) for kind, word in words if kind not in ("listen", "option") or not is_removed(program, kind, word)}
        for word in words:
            found[word] = found.get(word, "") + "abcdefgh"[number]
    versions = ", ".join(f"{'abcdefgh'[number]} {version}" for number, version in enumerate(programs))
    print(f"# Kind, word, and the versions of HAProxy that know it ({versions}). Written by tests/haproxy/vocabulary.py.")
    lines = [f"{kind}\t{word}\t{known}\n" for (kind, word), known in sorted(found.items())]
    sys.stdout.write("".join(lines))


main()
