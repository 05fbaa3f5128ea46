//! `agent`.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use clap::{Args, ValueEnum};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::Context;
use super::failure::fail_file;
use super::register_args::RegisterArgs;
use crate::admission::{ConnectionPermit, RateLimitedLog};
use crate::agent::api::client::Client;
use crate::agent::api::client_source::ClientSource;
use crate::agent::api::token::TokenGate;
use crate::agent::metrics::{self, Metrics};
use crate::agent::serve::{self, ClientRouter, TlsFiles};
use crate::agent::{agent_check, api};
use crate::config::env;
use crate::error::Failure;
use crate::model::agent_check::{AgentCheckConfig, MaintenanceReply, Weight};
use crate::model::api::{API_VERSION, GREETING, OLDEST_API_VERSION};
use crate::model::bearer_token::{REQUIRED_TOKEN_BITS, estimate_token_bits};
use crate::model::caller::{Caller, CallerIdentity};
use crate::model::client_list::{ClientListError, ListedClient, NamedToken, parse_clients, parse_tokens};
use crate::model::client_role::ClientRole;
use crate::model::history::Actor;
use crate::model::private_file::find_exposure;
use crate::ops::host::api::LocalHost;
use crate::ops::host::deployments;
use crate::ops::host::proxy;
use crate::ops::host::registration;
use crate::ops::host::rule_reconciler;
use crate::world::HostWorld;

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Serve the API on standard input and output, as ssh runs it.
    ///
    /// If an agent is running on this host, the connection is handed over to it.
    #[arg(long, conflicts_with_all = ["listen", "agent_check", "metrics", "register"])]
    stdio: bool,
    /// Listen on this unix socket, which only root may use
    #[arg(long, value_name = "PATH", default_value = "/run/switchman/agent.sock")]
    socket: PathBuf,
    /// Also serve over TLS on this address.
    ///
    /// Clients need a certificate of --client-ca, or the token of --token-file.
    #[arg(long, value_name = "ADDR:PORT", requires_all = ["certificate", "key", "admission"])]
    listen: Option<SocketAddr>,
    /// Read the agent's certificate (PEM) from this file
    #[arg(long, value_name = "FILE", requires = "listen")]
    certificate: Option<PathBuf>,
    /// Read the agent's private key (PEM) from this file
    #[arg(long, value_name = "FILE", requires = "listen")]
    key: Option<PathBuf>,
    /// Require client certificates of this authority (PEM)
    #[arg(long, value_name = "FILE", group = "admission", requires = "listen")]
    client_ca: Option<PathBuf>,
    /// Restrict client certificates to the names in this file: lines of NAME [ROLE].
    ///
    /// The name is the common name of the certificate. A role is read, switch or all [default: all]. Without this file, every
    /// certificate of --client-ca may do everything.
    #[arg(long, value_name = "FILE", requires = "client_ca")]
    clients: Option<PathBuf>,
    /// Require a bearer token of this file from clients.
    ///
    /// The file has one token, or lines of NAME TOKEN [ROLE]. A role is read, switch or all [default: all].
    #[arg(long, value_name = "FILE", group = "admission", requires = "listen")]
    token_file: Option<PathBuf>,
    /// Answer HAProxy's agent-check on this address.
    ///
    /// For load balancers that offer no socket.
    #[arg(long, value_name = "ADDR:PORT")]
    agent_check: Option<SocketAddr>,
    /// Answer agent-check with this state during maintenance.
    ///
    /// With stopped, HAProxy moves users with a session cookie too; with drain, they keep their host.
    #[arg(long, value_enum, default_value = "stopped", requires = "agent_check")]
    agent_check_says: AgentCheckState,
    /// Report this weight while the forward is on, such as 50% [default: none, HAProxy's own stays]
    #[arg(long, value_name = "PERCENT", requires = "agent_check")]
    agent_check_weight: Option<Weight>,
    /// Serve GET /metrics for Prometheus on this address.
    ///
    /// This is plain HTTP without authentication. Nothing else is served on this address.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    registration: RegisterArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AgentCheckState {
    Stopped,
    Drain,
}

pub async fn run(args: AgentArgs, context: &Context) -> Result<(), Failure> {
    let world = context.build_host_world(None);
    let metrics_source = Arc::new(Metrics::new(world.clone()));
    let build_router = {
        let (world, metrics_source) = (world.clone(), metrics_source.clone());
        move |clients: ClientSource| {
            let host = Arc::new(LocalHost::new(world.clone()));
            api::build_router(host, world.releases.clone(), metrics_source.clone(), clients)
        }
    };
    let router_for = {
        let build_router = build_router.clone();
        move |caller: Caller| build_router(ClientSource::Connection(Client { caller, role: ClientRole::All }))
    };
    if args.stdio {
        let caller = world.machine.observe_caller();
        let result = serve_stdio(&args.socket, router_for(caller.clone()), &caller, context).await;
        world.commands.wait_for_all().await;
        return result;
    }
    // What is wrong with its flags is an error before the agent serves.
    let registered = args.registration.connect(context)?;
    let stop = context.stop.clone();
    let over_tls = async {
        let (Some(address), Some(certificate), Some(key)) = (args.listen, &args.certificate, &args.key)
        else {
            return Ok(());
        };
        let (certificate, key) = (certificate.clone(), key.clone());
        let files = TlsFiles { certificate, key, client_ca: args.client_ca.clone() };
        require_private("key", "read the key", &files.key)?;
        let tls = serve::build_tls_server(&files)?;
        let tokens = args.token_file.as_deref().map(read_tokens).transpose()?;
        let listed = args.clients.as_deref().map(read_clients).transpose()?;
        let listener = bind_listener(address).await?;
        log::info!("serving https://{address}");
        let log = Arc::new(RateLimitedLog::default());
        let router = move |permit: Arc<ConnectionPermit>, certificate: Option<Caller>| {
            let clients = match (&tokens, certificate) {
                (Some(tokens), _) => {
                    ClientSource::Token(TokenGate { tokens: tokens.clone(), permit, log: log.clone() })
                }
                (None, Some(caller)) => admit_certificate(listed.as_deref(), caller),
                (None, None) => ClientSource::Unknown,
            };
            // A client that is not listed keeps no place, and its connection ends soon.
            let is_admitted = matches!(clients, ClientSource::Connection(_));
            ClientRouter { router: build_router(clients), is_admitted }
        };
        serve::serve_tls(listener, tls, router, stop.clone()).await;
        Ok::<(), Failure>(())
    };
    let counting = async {
        let Some(address) = args.metrics else { return Ok(()) };
        let listener = bind_listener(address).await?;
        log::info!("serving http://{address}/metrics");
        metrics::serve(listener, metrics_source.clone(), &world).await;
        Ok::<(), Failure>(())
    };
    let on_socket = async {
        let listener = serve::bind(&args.socket)?;
        context.renderer.print_remark(&format!("serving unix://{}", args.socket.display()));
        serve::serve_unix(listener, router_for, stop.clone()).await;
        Ok(())
    };
    let actor = Actor { is_host: true, ..env::read_actor() };
    // The agent serves no request before the rules are as recorded.
    let reconcilers = start_reconcilers(&world, &actor, context).await;
    let reconciling = async {
        Box::pin(reconcilers).await;
        Ok(())
    };
    let registering = async {
        if let Some(client) = &registered {
            registration::run(&world, client.registry.as_ref(), &client.spec).await;
        }
        Ok(())
    };
    let checking = serve_agent_check(&args, context, &world);
    let served = tokio::try_join!(on_socket, over_tls, checking, counting, reconciling, registering);
    world.commands.wait_for_all().await;
    served.map(|_| ())
}

/// Serves HAProxy's agent-check if `--agent-check` is given.
async fn serve_agent_check(args: &AgentArgs, context: &Context, world: &HostWorld) -> Result<(), Failure> {
    let Some(address) = args.agent_check else { return Ok(()) };
    let service = context.load_written_config()?.1.service;
    let maintenance_reply = match args.agent_check_says {
        AgentCheckState::Stopped => MaintenanceReply::Stopped,
        AgentCheckState::Drain => MaintenanceReply::Drain,
    };
    let config = AgentCheckConfig { maintenance_reply, weight: args.agent_check_weight };
    let listener = bind_listener(address).await?;
    log::info!("answering agent-check on {address}");
    agent_check::serve(world.clone(), service, config, listener).await;
    Ok(())
}

/// Starts the agent's reconcilers: rules, instances and the proxy are in the recorded state when this function returns, and stay
/// so for as long as the returned future is awaited.
async fn start_reconcilers<'a>(
    world: &'a HostWorld,
    actor: &'a Actor,
    context: &Context,
) -> impl Future<Output = ()> + 'a {
    // Before the rules are read: those that point to a proxy that died with this host forward to a closed port.
    if let Err(error) = proxy::bypass_dead_proxy(world, actor).await {
        context.renderer.print_remark(&format!("cannot route around a dead proxy: {error}"));
    }
    let reconciler = rule_reconciler::start(world, actor).await;
    async move {
        tokio::join!(reconciler.run(), deployments::run(world, actor), proxy::run(world, actor));
    }
}

async fn bind_listener(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|source| Failure::Listen { address, source })
}

/// Reads the tokens of `--token-file`, each of which has to be hard to guess.
fn read_tokens(file: &Path) -> Result<Arc<[NamedToken]>, Failure> {
    require_private("token", "read the token", file)?;
    let text = std::fs::read_to_string(file).map_err(fail_file("read the token", file))?;
    let weak = |bits| Failure::WeakToken { path: file.to_owned(), bits, required: REQUIRED_TOKEN_BITS };
    let tokens = parse_tokens(&text).map_err(|source| match source {
        ClientListError::Empty => weak(0),
        source => Failure::ClientList { path: file.to_owned(), source },
    })?;
    for token in &tokens {
        let bits = estimate_token_bits(&token.token);
        if bits < REQUIRED_TOKEN_BITS {
            return Err(weak(bits));
        }
    }
    Ok(tokens.into())
}

fn read_clients(file: &Path) -> Result<Arc<[ListedClient]>, Failure> {
    require_private("list of clients", "read the list of clients", file)?;
    let text = std::fs::read_to_string(file).map_err(fail_file("read the list of clients", file))?;
    let clients = parse_clients(&text);
    clients.map(Into::into).map_err(|source| Failure::ClientList { path: file.to_owned(), source })
}

/// Admits a client certificate with the role that the list has for its name; without a list, for everything.
fn admit_certificate(listed: Option<&[ListedClient]>, caller: Caller) -> ClientSource {
    let Some(listed) = listed else {
        return ClientSource::Connection(Client { caller, role: ClientRole::All });
    };
    let CallerIdentity::Certificate { name, .. } = &caller.identity else {
        return ClientSource::Refused(caller);
    };
    match listed.iter().find(|client| client.name == *name) {
        Some(client) => ClientSource::Connection(Client { caller, role: client.role }),
        None => ClientSource::Refused(caller),
    }
}

/// Refuses a file whose content another user knows: that user could send requests to the agent, or answer for it.
fn require_private(what: &'static str, action: &'static str, file: &Path) -> Result<(), Failure> {
    let metadata = std::fs::metadata(file).map_err(fail_file(action, file))?;
    let trusted = [0, nix::unistd::geteuid().as_raw()];
    match find_exposure(metadata.mode(), metadata.uid(), &trusted) {
        Some(exposure) => Err(Failure::ExposedSecret { what, path: file.to_owned(), exposure }),
        None => Ok(()),
    }
}

/// Writes the greeting first, so that the client can separate the API from text that a login shell printed before.
async fn serve_stdio(
    socket: &Path,
    router: Router,
    caller: &Caller,
    context: &Context,
) -> Result<(), Failure> {
    let failed = |source| Failure::Output { source };
    let mut out = tokio::io::stdout();
    let version = env!("CARGO_PKG_VERSION");
    let greeting = format!("{GREETING} api={OLDEST_API_VERSION}..{API_VERSION} version={version}\n");
    out.write_all(greeting.as_bytes()).await.map_err(failed)?;
    out.flush().await.map_err(failed)?;
    let stream = tokio::io::join(tokio::io::stdin(), out);
    let handed_over = tokio::select! {
        handed_over = serve::relay_to_agent(stream, socket, caller) => handed_over,
        () = context.stop.wait() => return Ok(()),
    };
    if let Some(stream) = handed_over {
        serve::serve_connection(stream, router, serve::IDLE_TIMEOUT, context.stop.clone()).await;
    }
    Ok(())
}
