#!/usr/bin/env bash
# The relay that makes a benchmark's network long: it carries bytes and ends unchanged, each half a round trip late, holds no
# more than it may, and sleeps when there is nothing to do.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
RELAY=$LM_BUILD/benchmarks/bench-relay
need_root
need python3
need_built "$ALONE" "$RELAY"
isolate relay

RTT=40 WINDOW=$((1 << 20))
start_listening relay 127.0.0.1:7000 "$RELAY" --rtt-ms $RTT --window $WINDOW 127.0.0.1:7000=127.0.0.1:7001 127.0.0.1:7002=127.0.0.1:7003
python3 - $RTT $WINDOW "$(pid_of relay)" <<'END' || fail "the relay"
import hashlib, os, socket, sys, threading, time
rtt, window, relay = int(sys.argv[1]) / 1000, int(sys.argv[2]), sys.argv[3]
MARGIN = 0.015  # of the best of several tries

def check(good, what):
    print(("" if good else "NOT ") + what)
    if not good:
        sys.exit(1)

server = socket.create_server(("127.0.0.1", 7001))
def status(name):
    for line in open(f"/proc/{relay}/status"):
        if line.startswith(name):
            return int(line.split()[1])
def pair():
    client = socket.create_connection(("127.0.0.1", 7000))
    return client, server.accept()[0]
def all_of(s):
    sum = hashlib.sha256()
    while data := s.recv(1 << 20):
        sum.update(data)
    return sum.hexdigest()

# Both ways at once, and the end of one way while the other goes on.
client, other = pair()
sent = os.urandom(24 << 20), os.urandom(24 << 20)
got = [None, None]
def send(s, data):
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
def receive(i, s):
    got[i] = all_of(s)
threads = [threading.Thread(target=f, args=a) for f, a in
           ((send, (client, sent[0])), (send, (other, sent[1])), (receive, (0, other)), (receive, (1, client)))]
for t in threads:
    t.start()
for t in threads:
    t.join()
check(got == [hashlib.sha256(s).hexdigest() for s in sent], "the same bytes both ways")

client, other = pair()
client.shutdown(socket.SHUT_WR)
check(other.recv(1) == b"", "an end arrives")
other.sendall(b"still")
check(client.recv(5) == b"still", "and the other way goes on")
other.close()
check(client.recv(1) == b"", "until it ends, too")

# A connection costs a round trip, and each question one.
def asked():
    begin = time.monotonic()
    client, other = pair()
    times = []
    for _ in range(3):
        client.sendall(b"?")
        other.recv(1)
        other.sendall(b"!")
        client.recv(1)
        times.append(time.monotonic() - begin)
    return times
tries = [asked() for _ in range(5)]
for i, trips in enumerate((2, 3, 4)):
    least, best = trips * rtt, min(t[i] for t in tries)
    check(least <= best < least + MARGIN + 0.005 * i, f"{trips} round trips of {rtt * 1000:.0f} ms: {best * 1000:.1f} ms")

# Bytes that nobody takes.
client, other = pair()
client.settimeout(1)
poured = 0
try:
    while poured < 256 << 20:
        poured += client.send(bytes(1 << 16))
except TimeoutError:
    pass
check(poured < 64 << 20, f"the sender waits, after {poured >> 10} KiB, most of them in the kernel's buffers")
check(status("VmHWM") < (window * 6 >> 10) + 8192, f"memory of the relay: {status('VmHWM')} KiB at most")

before = status("voluntary_ctxt_switches")
time.sleep(1)
woken = status("voluntary_ctxt_switches") - before
check(woken <= 2, f"woken {woken} times in a second without work, with bytes held back")

client, other = pair()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
client.close()
try:
    check(other.recv(1) == b"", "a reset arrives")
except ConnectionResetError:
    print("a reset arrives")

refused = socket.create_connection(("127.0.0.1", 7002))
refused.settimeout(5)
try:
    check(refused.recv(1) == b"", "a refusal arrives")
except ConnectionResetError:
    print("a refusal arrives")
END
stop relay
check_reports
