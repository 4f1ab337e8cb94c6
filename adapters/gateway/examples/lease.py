"""with lease("http://127.0.0.1:8090", pool="keys", token="...") as held: call held.url with held.secret while held.live()"""
import contextlib, http.client, json, threading, time, urllib.request, uuid
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
FAILURES = (OSError, http.client.HTTPException, ValueError)  # A refusal is an OSError with a code.
class lease:
    def __init__(self, gateway, wait=60.0, token=None, **request):
        self.gateway, self.wait, self.request = gateway.rstrip("/"), wait, request
        self.headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    def __enter__(self):
        self.secret, self.outcome, self.figures, self.ended = None, None, {}, threading.Event()
        self.expires = time.monotonic() + self.wait  # Of the request, until there is a lease.
        self.hold("leases", {"idempotency_key": uuid.uuid4().hex, **self.request})
        threading.Thread(target=self.renew, daemon=True).start()
        return self
    def __exit__(self, kind, *_):  # figures: cost, latency_ms, and retry_after_ms for outcome "throttled".
        self.ended.set()
        with contextlib.suppress(*FAILURES):  # Without an answer the lease expires by itself.
            told = {"outcome": self.outcome or ("failed" if kind else "ok")} | self.figures
            self.ask(f"leases/{self.lease}/release", told)
    def live(self):  # Start no send once this is false: another worker may have the member by then.
        return time.monotonic() < self.expires
    def hold(self, path, body):
        sent, told = self.ask(path, body)
        vars(self).update(told)  # lease, fence, member, url, secret, expires_in_ms, renew_in_ms, waited_ms
        self.expires = sent + (told.get("waited_ms", 0) + told["expires_in_ms"]) / 1000
    def renew(self):
        with contextlib.suppress(*FAILURES):
            while not self.ended.wait(self.renew_in_ms / 1000): self.hold(f"leases/{self.lease}/renew", {})
    def ask(self, path, body, pause=0.05):  # Asks again, under the same key, while the gateway restarts.
        while True:
            sent = time.monotonic()
            if path == "leases": body["wait_ms"] = max(int((self.expires - sent) * 1000), 0)
            call = urllib.request.Request(f"{self.gateway}/v1/{path}", json.dumps(body).encode(), self.headers)
            try:
                with DIRECT.open(call, timeout=body.get("wait_ms", 0) / 1000 + 10) as answer: return sent, json.load(answer)
            except FAILURES as error:
                code = getattr(error, "code", 503)
                if code == 410: self.expires = sent  # It was taken back.
                if (code < 500 and code != 429) or time.monotonic() + pause >= self.expires: raise
            time.sleep(pause); pause = min(2 * pause, 1.0)
