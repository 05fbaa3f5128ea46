//! `world::balancer` over HAProxy's stats socket (unix path, also of another machine, or TCP) and over the CSV of its statistics
//! page.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::model::balancer::{BackendView, BalancerSpec, ServerLine, ServerState, ServerView, StatsEndpoint};
use crate::world::balancer::{Balancer, BalancerError, FlushResult, SetWeightResult};

mod dial;
mod error;
mod http;
mod parse;
mod tunnel;

use error::{MAX_ANSWER_BYTES, ReadError, new_too_large_error, to_connection_error};
use tunnel::SshTunnel;

/// A balancer that can be read, with a bound on each read; `None` where the configuration gives no access.
pub fn connect(spec: &BalancerSpec, bound: Duration) -> Option<Arc<dyn Balancer>> {
    let access = spec.stats_endpoint.clone()?;
    let tunnel = match &access {
        StatsEndpoint::Ssh(socket) => Some(SshTunnel::new(socket.clone())),
        _ => None,
    };
    Some(Arc::new(Haproxy {
        spec: spec.clone(),
        access,
        tunnel,
        timeout: bound,
        client: http::PageClient::default(),
        flushing: tokio::sync::Mutex::default(),
    }))
}

struct Haproxy {
    spec: BalancerSpec,
    access: StatsEndpoint,
    /// Reaches a socket of another machine.
    tunnel: Option<SshTunnel>,
    timeout: Duration,
    client: http::PageClient,
    /// Held while idle connections of one server are closed.
    flushing: tokio::sync::Mutex<()>,
}

/// The interval between two reads of a server that comes UP again.
const UP_INTERVAL: Duration = Duration::from_millis(50);

#[async_trait]
impl Balancer for Haproxy {
    fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    async fn read(&self) -> Result<Arc<BackendView>, BalancerError> {
        self.run_with_timeout(self.read_view()).await.map(Arc::new)
    }

    async fn read_lines(&self) -> Result<Arc<Vec<ServerLine>>, BalancerError> {
        if matches!(self.access, StatsEndpoint::Http(_)) {
            return Ok(Arc::default());
        }
        let read =
            async { parse::parse_lines(&self.send_command("show servers state; show stat -1 4 -1").await?) };
        self.run_with_timeout(read).await.map(Arc::new)
    }

    /// After it the server is `UP 1/3` until a check has passed: HAProxy counts again from the lowest UP
    /// (docs/design/measurements.md#m40).
    async fn close_idle(&self, server: &str) -> Result<FlushResult, BalancerError> {
        let _turn = self.flushing.lock().await;
        let flushed = self.run_with_timeout(self.flush(server)).await?;
        if flushed != FlushResult::ClosedAndRestarted {
            return Ok(flushed);
        }
        let limit = self.compute_up_timeout();
        self.run_within(limit + self.timeout, self.wait_until_up(server, limit)).await?;
        Ok(flushed)
    }

    async fn set_weight(&self, server: &str, weight: u32) -> Result<SetWeightResult, BalancerError> {
        self.run_with_timeout(self.write_weight(server, weight)).await
    }
}

impl Haproxy {
    async fn run_with_timeout<T>(
        &self,
        work: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, BalancerError> {
        self.run_within(self.timeout, work).await
    }

    async fn run_within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, BalancerError> {
        let address = self.access.to_string();
        let backend = || self.spec.backend.clone();
        let opened = match &self.tunnel {
            Some(tunnel) => tunnel.ensure_open().await,
            None => Ok(()),
        };
        let ended = match opened {
            Ok(()) => tokio::time::timeout(timeout, work).await,
            Err(failed) => Ok(Err(failed)),
        };
        let Ok(ended) = ended else {
            return Err(BalancerError::TimedOut { address, waited: timeout });
        };
        let ended = match (ended, &self.tunnel) {
            (Err(ReadError::NotForwarded(reason)), Some(tunnel)) => {
                Err(ReadError::NoConnection(tunnel.explain(reason).await))
            }
            (ended, _) => ended,
        };
        ended.map_err(|reason| match reason {
            ReadError::NoConnection(reason) | ReadError::NotForwarded(reason) => {
                BalancerError::Unreachable { address, reason }
            }
            ReadError::Truncated { received } => BalancerError::Truncated { address, received },
            ReadError::Garbled(reason) => BalancerError::Malformed { address, reason },
            ReadError::MasterCli => BalancerError::MasterCli { address },
            ReadError::NoBackend => BalancerError::NoBackend { address, backend: backend() },
            ReadError::NoServer(server) => BalancerError::NoServer { address, backend: backend(), server },
            ReadError::Refused { status } => BalancerError::Refused { address, status },
            ReadError::NotUpAfterFlush { server, waited } => {
                BalancerError::NotUpAfterFlush { address, backend: backend(), server, waited }
            }
        })
    }

    /// The type `4` of `show stat` is servers.
    async fn read_view(&self) -> Result<BackendView, ReadError> {
        let backend = self.spec.backend.as_str();
        if let StatsEndpoint::Http(url) = &self.access {
            return parse::parse_page(&self.client.get(url, self.timeout).await?, backend);
        }
        let command = |proxy: &str| format!("show servers state {backend}; show stat {proxy} 4 -1");
        let answer = self.send_command(&command(backend)).await?;
        // A frontend of the same name is what `show stat NAME` finds: then the backend is requested by its number, which
        // `show servers state` gives.
        match parse::find_backend_number(&answer)? {
            Some(number) => parse::parse_socket_answer(&self.send_command(&command(&number)).await?, backend),
            None => parse::parse_socket_answer(&answer, backend),
        }
    }

    /// Sends one line on a stats socket.
    async fn send_command(&self, command: &str) -> Result<String, ReadError> {
        match &self.access {
            StatsEndpoint::Unix(path) => {
                send_line(UnixStream::connect(path).await.map_err(to_connection_error)?, command).await
            }
            StatsEndpoint::Ssh(_) => self.send_through_ssh(command).await,
            StatsEndpoint::Tcp { host, port } => send_line(dial::connect(host, *port).await?, command).await,
            StatsEndpoint::Http(_) => Err(to_connection_error("a statistics page takes no commands")),
        }
    }

    /// Fails without an answer: the end of a connection at the balancer is the same as an empty answer.
    async fn send_through_ssh(&self, command: &str) -> Result<String, ReadError> {
        let Some(tunnel) = &self.tunnel else { return Err(to_connection_error("there is no ssh")) };
        let to_error = |error: std::io::Error| ReadError::NotForwarded(error.to_string());
        let answer = match send_line(tunnel.connect().await.map_err(to_error)?, command).await {
            Err(ReadError::NoConnection(reason)) => Err(ReadError::NotForwarded(reason)),
            answer => answer,
        }?;
        if answer.is_empty() { Err(ReadError::Truncated { received: 0 }) } else { Ok(answer) }
    }

    async fn flush(&self, server: &str) -> Result<FlushResult, ReadError> {
        if matches!(self.access, StatsEndpoint::Http(_)) {
            return Ok(FlushResult::NotAllowed);
        }
        if !self.is_free(server).await? {
            return Ok(FlushResult::NotInService);
        }
        let name = format!("{}/{server}", self.spec.backend);
        // In one line, which HAProxy takes in one go: no client finds the server in maintenance for long.
        let line = format!("set server {name} state maint; set server {name} state ready");
        if !self.is_allowed(&line).await? {
            return Ok(FlushResult::NotAllowed);
        }
        // There is no other success than what is read back. A state that is set now was set after our command.
        let view = self.read_view().await?;
        let after = view.find_server(server).ok_or_else(|| ReadError::NoServer(server.to_owned()))?;
        Ok(if is_free(after) {
            FlushResult::Closed
        } else if !is_held(after) && matches!(after.state, ServerState::Down | ServerState::GoingUp) {
            FlushResult::ClosedAndRestarted
        } else {
            FlushResult::NotInService
        })
    }

    /// Waits until a server is UP again that starts DOWN.
    async fn wait_until_up(&self, server: &str, limit: Duration) -> Result<(), ReadError> {
        let deadline = tokio::time::Instant::now() + limit;
        while !self.is_free(server).await? {
            if tokio::time::Instant::now() >= deadline {
                return Err(ReadError::NotUpAfterFlush { server: server.to_owned(), waited: limit });
            }
            tokio::time::sleep(UP_INTERVAL).await;
        }
        Ok(())
    }

    /// Returns twice the time that its checks take for DOWN to UP by the configuration, and five seconds: the real timing may
    /// differ from the configured one.
    fn compute_up_timeout(&self) -> Duration {
        let check = &self.spec.check;
        let repeated = check.fastinter.unwrap_or(check.inter) * check.rise.saturating_sub(1);
        (repeated + check.inter + check.timeout.unwrap_or(check.inter)) * 2 + Duration::from_secs(5)
    }

    async fn write_weight(&self, server: &str, weight: u32) -> Result<SetWeightResult, ReadError> {
        let line = format!("set server {}/{server} weight {weight}", self.spec.backend);
        if matches!(self.access, StatsEndpoint::Http(_)) || !self.is_allowed(&line).await? {
            return Ok(SetWeightResult::NotAllowed);
        }
        let view = self.read_view().await?;
        match view.find_server(server) {
            Some(found) if found.weight == weight => Ok(SetWeightResult::Set),
            Some(found) => {
                Err(ReadError::Garbled(format!("its weight is {} after {weight} was set", found.weight)))
            }
            None => Err(ReadError::NoServer(server.to_owned())),
        }
    }

    /// Sends a line that HAProxy carries out in silence; `false`: the socket is not of level admin.
    async fn is_allowed(&self, line: &str) -> Result<bool, ReadError> {
        let answer = if self.tunnel.is_some() {
            // Silence may also be the end of a connection that HAProxy never had: a command with an answer follows.
            let line = format!("{line}; show servers state {}", self.spec.backend);
            let answer = self.send_command(&line).await?;
            let reply = answer.split_once("1\n# be_id").map(|(reply, _)| reply.to_owned());
            reply.ok_or(ReadError::Truncated { received: answer.len() })?
        } else {
            self.send_command(line).await?
        };
        match answer.trim() {
            "" => Ok(true),
            denied if denied.starts_with("Permission denied") => Ok(false),
            other => Err(ReadError::Garbled(other.chars().take(200).collect())),
        }
    }

    async fn is_free(&self, server: &str) -> Result<bool, ReadError> {
        let view = self.read_view().await?;
        view.find_server(server).map(is_free).ok_or_else(|| ReadError::NoServer(server.to_owned()))
    }
}

/// Whether the server takes traffic and has no administrative state.
fn is_free(server: &ServerView) -> bool {
    !is_held(server)
        && matches!(server.state, ServerState::Up | ServerState::GoingDown | ServerState::NoCheck)
}

/// Whether an operator holds the server in maintenance or drain, or that is not known.
fn is_held(server: &ServerView) -> bool {
    server.admin_state.is_none_or(|admin| admin.is_in_maintenance() || admin.is_in_drain())
}

/// Sends one line with all commands, which HAProxy answers in one piece and then closes (management guide, 9.3).
async fn send_line(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    command: &str,
) -> Result<String, ReadError> {
    stream.write_all(format!("{command}\n").as_bytes()).await.map_err(to_connection_error)?;
    let mut stream = stream.take(MAX_ANSWER_BYTES + 1);
    let mut answer = Vec::new();
    loop {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            // The master CLI leaves the connection open after an unknown command.
            Ok(_) if is_master_answer(&answer) => return Err(ReadError::MasterCli),
            Ok(_) => {}
            Err(_) if !answer.is_empty() => return Err(ReadError::Truncated { received: answer.len() }),
            Err(error) => return Err(to_connection_error(error)),
        }
    }
    if answer.len() as u64 > MAX_ANSWER_BYTES {
        return Err(new_too_large_error());
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether the answer is the list of commands that the master CLI has and a stats socket has not (management guide, 9.4):
/// `show proc`, or for `set server` the prefixes that name a process. HAProxy 2.6 lists what is similar, older ones list all.
fn is_master_answer(answer: &[u8]) -> bool {
    const COMMANDS: [&[u8]; 2] = [b"\n  show proc ", b"\n  @master "];
    let has = |command: &[u8]| answer.windows(command.len()).any(|part| part == command);
    answer.starts_with(b"Unknown command") && COMMANDS.into_iter().any(has)
}

/// Reads a text as each answer of the statistics socket and page: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_answers(answer: &str) {
    let _ = parse::parse_socket_answer(answer, "shop");
    let _ = parse::parse_page(answer, "shop");
    let _ = parse::parse_lines(answer);
}

#[cfg(test)]
mod flush_tests;
#[cfg(test)]
mod master_tests;
#[cfg(test)]
mod tests;
