//! The API on a unix socket, over TLS, or on one pair of pipes.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certificate::identify_certificate;
use crate::admission::{Admission, ConnectionPermit};
use crate::model::caller::{Caller, CallerIdentity};
use crate::plan::admission::{AdmissionLimits, AdmissionResult};
use crate::world::stop::StopToken;

/// Memory that the clients of `--listen` may take together, and the share of each: buffers of TLS (two records of 16 KiB) and of
/// HTTP. An operator needs two connections, a command for a fleet one to each host.
const TLS_LIMITS: AdmissionLimits = AdmissionLimits::from_budget(32 << 20, 64 << 10);
/// Timeout from a connection to its client certificate, or to the head of a request with the right token.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout from an answer to the next request. A client with a credential makes a new connection in milliseconds.
const TLS_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Timeout of the same wait where only root connects, through a login that takes its time.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
/// Requests in flight get this long when the agent is stopped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit of the line by which a relay names its caller, and of the wait for it.
const MAX_ANNOUNCEMENT_BYTES: u64 = 4096;
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// The end of the name of the socket for relays.
const RELAY_SUFFIX: &str = "relay";
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("another agent serves `{path}`")]
    SocketInUse { path: PathBuf },
    #[error("cannot {action} `{subject}`: {reason}")]
    Failed { action: &'static str, subject: String, reason: String },
}

/// Keys of the TLS listener: a client shows a certificate of this authority, or bears the token.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// Serves one client after another on these bytes, until they end.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    idle: Duration,
    stop: StopToken,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    tokio::select! {
        // The client has received the error, or has disconnected.
        _ = serving.as_mut() => {}
        () = stop.wait() => {
            serving.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, serving).await;
        }
    }
}

/// A unix socket that is ours for as long as the lock is held, and one beside it for the relays of `agent --stdio`.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    relays: UnixListener,
    path: PathBuf,
    lock: File,
}

/// A socket for root alone. One that is left over from a dead agent is replaced; anything else at its place is not.
pub fn bind(path: &Path) -> Result<BoundSocket, ServeError> {
    let failed = |action, error: &dyn std::fmt::Display| ServeError::Failed {
        action,
        subject: path.display().to_string(),
        reason: error.to_string(),
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| failed("make the directory of", &error))?;
    }
    // Two that start at once both find a dead socket: the lock decides which one may replace it.
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(append_suffix(path, "lock"));
    let lock = lock.map_err(|error| failed("lock", &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(ServeError::SocketInUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(failed("lock", &error)),
    }
    let place = |path: &Path| {
        if std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(failed("replace", &"it is no socket"));
        }
        // Bound under another name and moved: at no moment may others connect.
        let fresh = append_suffix(path, "new");
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(|error| failed("bind", &error))?;
        let mode = std::fs::Permissions::from_mode(0o600);
        let placed = std::fs::set_permissions(&fresh, mode).and_then(|()| std::fs::rename(&fresh, path));
        placed.map_err(|error| failed("place", &error))?;
        Ok(listener)
    };
    let relays = place(&append_suffix(path, RELAY_SUFFIX))?;
    Ok(BoundSocket { listener: place(path)?, relays, path: path.to_owned(), lock })
}

fn append_suffix(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

/// Serves until a stop is requested; removes the sockets. Every client has a router of its own: what it sees is compared with
/// what it saw last, not with what another client did.
pub async fn serve_unix(
    socket: BoundSocket,
    router: impl Fn(Caller) -> Router + Clone + Send + 'static,
    stop: StopToken,
) {
    let BoundSocket { listener, relays, path, lock } = socket;
    let mut clients = JoinSet::new();
    loop {
        let (accepted, is_relay) = tokio::select! {
            accepted = listener.accept() => (accepted, false),
            accepted = relays.accept() => (accepted, true),
            Some(_) = clients.join_next() => continue,
            () = stop.wait() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                clients.spawn(async move {
                    let served = serve_unix_client(stream, is_relay, router, stop).await;
                    if let Err(error) = served {
                        log::warn!("closed a connection to the socket of the agent: {error}");
                    }
                });
            }
            Err(error) => {
                log::warn!("cannot accept on `{}`: {error}", path.display());
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_file(append_suffix(&path, RELAY_SUFFIX));
    drop(lock);
    while clients.join_next().await.is_some() {}
}

/// Serves a process of this host: the kernel reports its user. A relay is root's `agent --stdio`: it names the caller for whom it
/// passes bytes on, before any byte of that caller.
async fn serve_unix_client(
    stream: UnixStream,
    is_relay: bool,
    router: impl Fn(Caller) -> Router,
    stop: StopToken,
) -> std::io::Result<()> {
    let uid = nix::unistd::Uid::from_raw(stream.peer_cred()?.uid());
    if !is_relay {
        let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
        let name = name.unwrap_or_else(|| format!("uid {uid}"));
        let caller = Caller::new(CallerIdentity::User { name, uid: uid.as_raw(), login: None }, None);
        serve_connection(stream, router(caller), IDLE_TIMEOUT, stop).await;
        return Ok(());
    }
    if !uid.is_root() && uid != nix::unistd::geteuid() {
        return Err(std::io::Error::other(format!("uid {uid} may not name another caller")));
    }
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut stream).take(MAX_ANNOUNCEMENT_BYTES);
    let read = tokio::time::timeout(ANNOUNCEMENT_TIMEOUT, limited.read_line(&mut line)).await;
    read.map_err(|_| std::io::Error::other("a relay named no caller in time"))??;
    let caller: Caller = serde_json::from_str(&line).map_err(std::io::Error::other)?;
    if !matches!(caller.identity, CallerIdentity::User { .. }) {
        return Err(std::io::Error::other("a relay names users only, no certificate and no token"));
    }
    serve_connection(stream, router(caller), IDLE_TIMEOUT, stop).await;
    Ok(())
}

/// TLS for `--listen`.
pub struct TlsServer {
    acceptor: TlsAcceptor,
}

/// The routes for the client of a TLS connection.
pub struct ClientRouter {
    pub router: Router,
    /// Whether the finished handshake admits the client. Where it does not, a token may.
    pub is_admitted: bool,
}

pub fn build_tls_server(files: &TlsFiles) -> Result<TlsServer, ServeError> {
    let failed = |action: &'static str, path: &Path, reason: String| ServeError::Failed {
        action,
        subject: path.display().to_string(),
        reason,
    };
    let certificates = |path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if found.is_empty() => Err(failed("use", path, "it holds no certificate".to_owned())),
            Ok(found) => Ok(found),
            Err(error) => Err(failed("read the certificates", path, error.to_string())),
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| failed("use", &files.certificate, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| failed("use", ca, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| failed("use", ca, error.to_string()))?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.map_err(|error| failed("read the key", &files.key, error.to_string()))?;
    let config = builder.with_single_cert(certificates(&files.certificate)?, key);
    let config = config.map_err(|error| failed("use", &files.certificate, error.to_string()))?;
    Ok(TlsServer { acceptor: TlsAcceptor::from(Arc::new(config)) })
}

/// Serves until a stop is requested. The router is for the client certificate of a connection, or admits the client by a token.
pub async fn serve_tls(
    listener: TcpListener,
    tls: TlsServer,
    router: impl Fn(Arc<ConnectionPermit>, Option<Caller>) -> ClientRouter + Clone + Send + 'static,
    stop: StopToken,
) {
    let mut clients = JoinSet::new();
    let (tls, admission) = (Arc::new(tls), Admission::new("--listen", TLS_LIMITS));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let permit = Arc::new(admission.enter(peer));
                    let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                    clients.spawn(async move {
                        tokio::select! {
                            () = serve_tls_client(&tls, stream, router, &permit, stop) => {}
                            end = permit.wait_for_end(ADMISSION_TIMEOUT) => permit.warn_of_end(end),
                        }
                    });
                }
                Err(error) => {
                    admission.displace_oldest();
                    admission.warn(format_args!("cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            },
            Some(_) = clients.join_next() => {}
            () = stop.wait() => break,
        }
    }
    while clients.join_next().await.is_some() {}
}

async fn serve_tls_client(
    tls: &TlsServer,
    stream: TcpStream,
    router: impl Fn(Arc<ConnectionPermit>, Option<Caller>) -> ClientRouter,
    permit: &Arc<ConnectionPermit>,
    stop: StopToken,
) {
    // A connection that is closed already is noticed when it is read.
    let _ = stream.set_nodelay(true);
    let stream = match tls.acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return permit.warn(format_args!("no TLS session: {error}")),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let caller = certificate.map(|found| Caller::new(identify_certificate(found), Some(permit.peer)));
    let ClientRouter { router, is_admitted } = router(permit.clone(), caller);
    if is_admitted && permit.admit() == AdmissionResult::Full {
        let max = TLS_LIMITS.admitted;
        return permit.warn(format_args!("closed: {max} clients with a certificate are connected"));
    }
    serve_connection(stream, router, TLS_IDLE_TIMEOUT, stop).await;
}

/// Hands these bytes to the agent that is running, if there is one, until either side ends; gives them back if there is
/// none. The agent learns for which caller.
pub async fn relay_to_agent<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    path: &Path,
    caller: &Caller,
) -> Option<S> {
    let Some(mut agent) = connect_to_agent(path, caller).await else { return Some(stream) };
    let (mut from_caller, mut to_caller) = tokio::io::split(stream);
    let (mut from_agent, mut to_agent) = agent.split();
    // When either side is closed, no request and no answer can follow.
    tokio::select! {
        _ = tokio::io::copy(&mut from_caller, &mut to_agent) => {}
        _ = tokio::io::copy(&mut from_agent, &mut to_caller) => {}
    }
    None
}

async fn connect_to_agent(path: &Path, caller: &Caller) -> Option<UnixStream> {
    // An agent of an older version has no socket for relays.
    let Ok(mut agent) = UnixStream::connect(append_suffix(path, RELAY_SUFFIX)).await else {
        return UnixStream::connect(path).await.ok();
    };
    let mut line = serde_json::to_string(caller).ok()?;
    line.push('\n');
    agent.write_all(line.as_bytes()).await.ok()?;
    Some(agent)
}
