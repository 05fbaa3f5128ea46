"""relay.py PORT SOCKET WEB...: TCP to the agent's unix socket, and small web servers as targets of deployments."""

import http.server
import socket
import socketserver
import sys
import threading


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Relay(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(sys.argv[2])
            pump = threading.Thread(target=copy, args=(self.request, agent), daemon=True)
            pump.start()
            copy(agent, self.request)


def copy(source, to):
    try:
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128


class WebServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128


for port in sys.argv[3:]:
    web = WebServer(("0.0.0.0", int(port)), Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
Server(("127.0.0.1", int(sys.argv[1])), Relay).serve_forever()
