//! `world::proxy`: `switchman proxy` as a process of its own, reached on its control socket.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::exec::{OWN_EXE, Program};
use super::store::FileLockGuard;
use super::systemd::Systemd;
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::proxy::{ProxyConfig, ProxyHealth, ProxyStats};
use crate::world::proxy::{Proxy, ProxyError};
use crate::world::store::LockGuard;

/// The unit of the package; without it, or without systemd, the proxy is started as a plain process.
const UNIT: &str = "switchman-proxy.service";
const UNIT_FILES: [&str; 3] = ["/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"];
/// The state directory of the unit's proxy, with its socket: packaging/switchman-proxy.service.
const PACKAGED_STATE_DIR: &str = "/var/lib/switchman";
/// A process that starts answers within milliseconds; a loaded machine takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// The unit's proxy may have to end its connections first (`--drain-limit`).
const UNIT_START_TIMEOUT: Duration = Duration::from_secs(35);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Bound on one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one answer: the counts of a thousand services.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Output of a proxy that is kept.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// The proxy of the host whose state is in this directory.
#[derive(Debug)]
pub struct ProxyProcess {
    dir: PathBuf,
}

impl ProxyProcess {
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.to_owned() }
    }

    fn socket_path(&self) -> PathBuf {
        self.dir.join("proxy.sock")
    }

    fn silent_error(&self, why: &dyn std::fmt::Display) -> ProxyError {
        ProxyError::Unresponsive { why: format!("{why} ({})", self.socket_path().display()) }
    }

    /// Sends one request on a connection of its own, so that a proxy replaced since the last request is reached too.
    async fn request_json<T: DeserializeOwned>(
        &self,
        bound: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ProxyError> {
        let asked = async {
            let stream =
                UnixStream::connect(self.socket_path()).await.map_err(|error| self.silent_error(&error))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| self.silent_error(&error))?;
            let body = body.map(serde_json::to_vec).transpose().map_err(|error| self.silent_error(&error))?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "proxy")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body.unwrap_or_default())))
                .map_err(|error| self.silent_error(&error))?;
            let exchange = async {
                let answer = sender.send_request(request).await.map_err(|error| self.silent_error(&error))?;
                let status = answer.status();
                let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
                Ok((status, body.map_err(|error| self.silent_error(&error))?.to_bytes()))
            };
            // The connection ends with this question.
            tokio::pin!(connection);
            tokio::pin!(exchange);
            tokio::select! {
                biased;
                exchanged = &mut exchange => exchanged,
                _ = &mut connection => exchange.await,
            }
        };
        let Ok(asked) = tokio::time::timeout(bound, asked).await else {
            let waited = crate::model::duration::format(bound);
            return Err(self.silent_error(&format!("no answer within {waited}")));
        };
        let (status, body) = asked?;
        if status != StatusCode::OK {
            let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let said = said.and_then(|said| Some(said.get("message")?.as_str()?.to_owned()));
            let why = said.unwrap_or_else(|| format!("it answers {status}"));
            return Err(ProxyError::Refused { why });
        }
        serde_json::from_slice(&body).map_err(|error| self.silent_error(&error))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ProxyError> {
        self.request_json(ANSWER_TIMEOUT, Method::GET, path, None::<&()>).await
    }

    async fn read_health(&self, bound: Duration) -> Result<ProxyHealth, ProxyError> {
        self.request_json(bound, Method::GET, "/health", None::<&()>).await
    }

    /// The package's unit keeps its state in the package's directory; any other state directory is another proxy's.
    fn is_packaged_unit(&self) -> bool {
        self.dir == Path::new(PACKAGED_STATE_DIR)
            && Uid::effective().is_root()
            && Systemd::is_running()
            && UNIT_FILES.iter().any(|dir| Path::new(dir).join(UNIT).is_file())
    }

    async fn spawn(&self) -> Result<(), ProxyError> {
        let failed = |why: String| ProxyError::StartFailed { why };
        let io = |error: &dyn std::fmt::Display| failed(error.to_string());
        if self.is_packaged_unit() {
            // One that ends its connections first is not waited for here.
            let restart = Program::new("systemctl").args(["restart", "--no-block", UNIT]);
            let started = restart.run(b"", START_TIMEOUT).await;
            let output = started.map_err(|error| io(&error))?;
            return if output.status == 0 { Ok(()) } else { Err(failed(output.stderr.trim().to_owned())) };
        }
        DirBuilder::new().recursive(true).mode(0o750).create(&self.dir).map_err(|error| io(&error))?;
        let log = self.log_path();
        let truncate = std::fs::metadata(&log).is_ok_and(|file| file.len() > MAX_LOG_BYTES);
        let mut options = OpenOptions::new();
        let options = options.create(true).mode(0o600);
        let log = if truncate { options.write(true).truncate(true) } else { options.append(true) }.open(&log);
        let log = log.map_err(|error| io(&error))?;
        let program = Program::new(OWN_EXE).args(["proxy", "--control"]).arg(self.socket_path());
        program.start(log).map_err(|error| io(&error))?;
        Ok(())
    }

    /// A process that takes connections on its socket and does not answer, as one that is stopped (SIGSTOP): nothing else makes room
    /// for another one. What is connected through it hangs already.
    async fn kill_hung(&self) {
        let Ok(stream) = UnixStream::connect(self.socket_path()).await else { return };
        let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
        drop(stream);
        if let Some(pid) = pid {
            log::warn!("the proxy (pid {pid}) does not answer: it is ended");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            self.wait_until_closed(START_TIMEOUT).await;
        }
    }

    /// Waits until no process accepts connections on the socket, or until `limit` is over.
    async fn wait_until_closed(&self, limit: Duration) {
        let gone = async {
            while UnixStream::connect(self.socket_path()).await.is_ok() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(limit, gone).await;
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("proxy.log")
    }

    fn read_last_log_line(&self) -> String {
        if self.is_packaged_unit() {
            return format!("see `journalctl --unit {UNIT}`");
        }
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        log.lines().last().unwrap_or("its log is empty").to_owned()
    }

    fn lock_agent(&self, how: FlockArg) -> Result<Option<Flock<File>>, ProxyError> {
        let failed = |error: &dyn std::fmt::Display| ProxyError::StartFailed { why: error.to_string() };
        DirBuilder::new().recursive(true).mode(0o750).create(&self.dir).map_err(|error| failed(&error))?;
        let path = self.dir.join("proxy.keeper");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        match Flock::lock(opened.map_err(|error| failed(&error))?, how) {
            Ok(held) => Ok(Some(held)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(failed(&error)),
        }
    }
}

#[async_trait]
impl Proxy for ProxyProcess {
    async fn start(&self) -> Result<(), ProxyError> {
        // A proxy that refuses a request is alive: the agent waits for it and does not replace it.
        let asked = Instant::now();
        loop {
            match self.read_health(ANSWER_TIMEOUT).await {
                Ok(_) => return Ok(()),
                Err(ProxyError::Refused { .. }) if asked.elapsed() < ANSWER_TIMEOUT => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(_) => break,
            }
        }
        // A proxy that is ending closes its connections first and exits shortly after.
        if asked.elapsed() >= ANSWER_TIMEOUT {
            self.kill_hung().await;
        }
        self.spawn().await?;
        let deadline =
            Instant::now() + if self.is_packaged_unit() { UNIT_START_TIMEOUT } else { START_TIMEOUT };
        loop {
            match self.read_health(ANSWER_TIMEOUT).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(ProxyError::StartFailed {
                        why: format!("{error}; {}", self.read_last_log_line()),
                    });
                }
                Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn configure(&self, config: &ProxyConfig) -> Result<(), ProxyError> {
        self.request_json::<serde::de::IgnoredAny>(ANSWER_TIMEOUT, Method::PUT, "/config", Some(config))
            .await
            .map(drop)
    }

    async fn read_config(&self) -> Result<ProxyConfig, ProxyError> {
        self.get("/config").await
    }

    async fn check_health(&self, bound: Duration) -> Result<ProxyHealth, ProxyError> {
        self.read_health(bound).await
    }

    async fn wait_for_exit(&self) {
        let Ok(mut stream) = UnixStream::connect(self.socket_path()).await else { return };
        // The proxy never sends anything unrequested: this read returns when the connection ends.
        let _ = stream.read(&mut [0; 1]).await;
    }

    async fn read_stats(&self) -> Result<ProxyStats, ProxyError> {
        self.get("/stats").await
    }

    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, ProxyError> {
        self.get(&format!("/compare/{service}/{deployment}")).await
    }

    async fn stop(&self) -> Result<(), ProxyError> {
        match self
            .request_json::<serde::de::IgnoredAny>(ANSWER_TIMEOUT, Method::POST, "/stop", None::<&()>)
            .await
        {
            Ok(_) => {
                self.wait_until_closed(ANSWER_TIMEOUT).await;
                Ok(())
            }
            // No proxy runs any more, or it hangs; the start of the next one detects that.
            Err(ProxyError::Unresponsive { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn keep(&self) -> Result<Option<Box<dyn LockGuard>>, ProxyError> {
        let lock = self.lock_agent(FlockArg::LockExclusiveNonblock)?;
        Ok(lock.map(|lock| Box::new(FileLockGuard { _lock: lock }) as Box<dyn LockGuard>))
    }

    fn is_watched(&self) -> bool {
        // A shared lock: a process that checks at the same time is not taken for an agent.
        matches!(self.lock_agent(FlockArg::LockSharedNonblock), Ok(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_lock_is_held_by_one_agent_and_queries_do_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let proxies = [ProxyProcess::new(dir.path()), ProxyProcess::new(dir.path())];
        assert!(!proxies[0].is_watched());
        // Another process that checks at the same time.
        let asks = proxies[1].lock_agent(FlockArg::LockSharedNonblock).unwrap();
        assert!(!proxies[0].is_watched());
        drop(asks);
        let held = proxies[0].keep().unwrap();
        assert!(held.is_some());
        assert!(proxies[0].is_watched() && proxies[1].is_watched());
        assert!(proxies[1].keep().unwrap().is_none());
        drop(held);
        assert!(!proxies[1].is_watched());
    }
}
