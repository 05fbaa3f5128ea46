//! The command line: flags -> options -> one operation -> render.

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::env;
use crate::error::{ExitStatus, Failure};
use crate::world::changes::ChangeTracker;
use crate::world::stop;

mod agent;
mod check;
mod completions;
mod context;
mod deployments;
mod discovered_hosts;
mod failure;
mod forward;
mod globals;
mod haproxy_files;
#[cfg(test)]
mod hint_commands;
mod history;
mod host_address_arg;
mod host_args;
mod init;
mod interrupt;
mod journal;
mod lab;
mod lock;
mod lock_wait_args;
mod man;
mod metrics;
mod permission_arg;
mod plain_text_arg;
mod promote;
mod proxy;
mod refresh_args;
mod register_args;
pub mod render;
mod restore;
mod roll;
mod schema;
mod ssh_files;
mod status;
mod summary;
mod supervise;
mod web_server_arg;
pub mod world_params;

use context::Context;
use failure::fail_system;
use globals::{GlobalArgs, OutputFormat};
use interrupt::{InterruptPolicy, PromptState};
use render::Renderer;
use world_params::WorldFactory;

/// Deploys that lose no request, on plain Linux servers behind HAProxy.
///
/// HAProxy health-checks a host's main vhost on the check port (8888), which exists only as a kernel rule on the host: the
/// forward. Turn the forward off and HAProxy marks the main vhost DOWN (it shows DOWN, not MAINT) and moves its users to the
/// host's backup vhost; turn it on and they return. The data port keeps answering all the time, so no request is lost.
#[derive(Debug, Parser)]
#[command(name = "switchman", version, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done or already so; 1 refused or failed; 2 wrong usage or configuration; 3 done for some \
                  hosts, not for others."
)]
pub struct Cli {
    #[command(flatten)]
    globals: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration: switchman.yaml, the two vhosts, haproxy.cfg
    Init(init::InitArgs),
    /// End maintenance: turn the forward on and wait until HAProxy reports UP
    ///
    /// The forward is turned on only once the main vhost is healthy.
    EnableForward(forward::EnableArgs),
    /// Begin maintenance: turn the forward off and wait until HAProxy reports DOWN
    ///
    /// HAProxy then sends the users of this host to its backup vhost.
    DisableForward(forward::DisableArgs),
    /// Show the forward, HAProxy's view, requests in flight and drift
    Status(status::StatusArgs),
    /// Check configuration, hosts and balancers for problems, with a fix for each
    ///
    /// On a host: configuration, rules, firewalls, processes, haproxy.cfg. On a machine that is none of the hosts: whether each
    /// host can be reached and driven from here, what it reports of itself, every load balancer, hooks and keys.
    Check(check::CheckArgs),
    /// Restore the kernel's rules to the recorded state, as at boot
    ///
    /// A host in maintenance stays in maintenance.
    Restore,
    /// Run a command on hosts under maintenance, one batch after another
    ///
    /// Each host: hooks before_host, forward off, every HAProxy reports DOWN, nothing in flight any more, CMD, the main vhost is
    /// healthy, forward on, every HAProxy reports UP, hooks after_host. Before each batch every backup vhost of it must be UP,
    /// and roll.min_up other main vhosts. Every step is recorded before it is done: after a failure, Ctrl-C or a crash, --status
    /// shows its progress, --resume continues and --abort puts the hosts back. Ctrl-C once finishes or undoes the hosts that
    /// are out, then stops; twice stops at once.
    Roll(roll::RollArgs),
    /// Place and start a version of a service
    ///
    /// The first version becomes main. Later versions are shadows, which receive no traffic until they are assigned, mirrored,
    /// promoted or made a canary.
    ///
    /// SOURCE is a directory or a .tar.gz, placed as an immutable release on every host, or the http:// address of something
    /// that runs already on the host. With CMD, that program is started from the release with PORT in its environment; without
    /// one, the release is a static site that a web server of its own serves. No rule points to an instance before it
    /// has answered its health check.
    Deploy(deployments::DeployArgs),
    /// List versions: which is main, what runs, what is draining
    #[command(visible_alias = "list")]
    Ls(deployments::LsArgs),
    /// Show everything about a service or one of its versions, host by host
    Describe(deployments::DescribeArgs),
    /// Make a version main
    ///
    /// Rolling goes host by host under maintenance, as `roll` does: no client sees the old version once its host is back. A flip
    /// moves both ports of every host in one transaction: new connections go to the new version, old ones end on the old
    /// one. Then the new main is watched: when its health fails, switchman makes the old version main again.
    Assign(deployments::AssignArgs),
    /// Send a version copies of the requests and discard its answers
    ///
    /// Users see main's answers only, and main never waits for the version.
    #[command(
        after_help = "Each host routes main's requests through a proxy while it has a mirror or a canary; an agent has to run there. \
                            Copies carry X-Shadow: VERSION. `switchman compare` shows the answers that differ."
    )]
    Mirror(deployments::MirrorArgs),
    /// Show how a version's answers differ from main's
    ///
    /// Only requests of which the version got a copy are compared.
    #[command(
        after_help = "Exit status: 0 the same, as far as was required; 1 it differs, or could not be compared (a host could not be \
                            reached, no such version, no main); 2 too few answers were compared for a verdict, or wrong flags or configuration. A field that main answers differently by itself, when it gets the same request \
                            twice (mirror --control), counts only where the version differs more often than that."
    )]
    Compare(deployments::CompareArgs),
    /// Let a version answer a share of the requests or users
    ///
    /// --header and --cookie select requests regardless of the share.
    #[command(
        after_help = "Without --sticky the share is one of requests, exact by counting; a version that refuses connections \
                            has its requests answered by main. `switchman assign NAME VERSION --host H` makes it main on some hosts instead."
    )]
    Canary(deployments::CanaryArgs),
    /// Make the last good main version main again
    ///
    /// The change is immediate on all hosts; it is refused while that version is not healthy.
    Rollback(deployments::RollbackArgs),
    /// Promote a version to main step by step, while it is no worse than main
    ///
    /// On every host the canary gets the share of each step. After an interval, its answers are compared with main's over the
    /// same minutes: failures (5xx, no answer, not taken) and p99. If the canary is no worse, the next step begins. With too few
    /// requests, or a host whose proxy does not run, the promotion holds and prints why. At the first breach main answers everything again,
    /// on every host, and the command exits with 1. After the last step it becomes main by a flip, and is watched. Every step is
    /// recorded before it is done: after Ctrl-C, which leaves no canary, or a crash, --status shows its progress, --resume
    /// continues, --abort ends it.
    Promote(promote::PromoteArgs),
    /// Replace the code of a version in place
    ///
    /// The deployment keeps its id, its revision and the requests in flight on it. Options that are not given stay as before.
    /// Old and new code share their stored state: the old code has to be able to read it until it has drained.
    Update(deployments::UpdateArgs),
    /// Merge the deployments of one version into one
    ///
    /// Hosts may have a version under different ids if it was deployed to each of them while the others could not be read. Every
    /// host gets the oldest id and its revision. Nothing is restarted, no rule is changed.
    Merge(deployments::MergeArgs),
    /// Compare the files of releases with those that were placed
    ///
    /// Every host reads all files of the releases and compares them with the manifest that it wrote when it placed them. deploy, update
    /// and assign do the same for the release that they start or make main, and refuse one whose files were changed.
    #[command(after_help = "Exit status: 0 unchanged; 1 files were changed, or a host could not be read.")]
    Verify(deployments::VerifyArgs),
    /// Make a service public or private
    Access(deployments::AccessArgs),
    /// Stop and remove versions
    ///
    /// Refused while requests are in flight on a version that is not main, and for a main that has shadows. The last remaining
    /// version can be killed: the host goes into maintenance, open requests get --drain-timeout to finish, the rest are closed
    /// and counted.
    Kill(deployments::KillArgs),
    /// Show instance logs
    Logs(deployments::LogsArgs),
    /// Show, acquire or release the fleet lock
    ///
    /// roll, promote, assign, update, kill, merge, access, mirror, canary and a switch of several hosts acquire it by themselves; a
    /// lock whose process has ended is taken over. A lock acquired by an operator stays until it is released. rollback and a switch
    /// of a single host only print a warning about it; deploy without --assign does not look at it.
    Lock(lock::LockArgs),
    /// Move the journal and the lock to another store
    Journal(journal::JournalArgs),
    /// Serve this host's API on a unix socket, over TLS or over ssh
    ///
    /// Over ssh nothing needs to run: the operator's switchman starts `agent --stdio` by itself. The API describes itself at
    /// /v1/openapi.json.
    Agent(agent::AgentArgs),
    /// Print metrics of the hosts and of the last roll and promotion for Prometheus
    ///
    /// Run it from cron for the textfile collector of node_exporter. Hosts that cannot be reached are in the numbers. The agent
    /// of a host serves the host's own counters: `switchman agent --metrics`.
    Metrics(metrics::MetricsArgs),
    /// Proxy a host's requests while it has mirrors or canaries: started by the agent
    #[command(hide = true)]
    Proxy(proxy::ProxyArgs),
    /// List past changes and rolls, with their operator and result
    ///
    /// With SERVICE, the changes of every host are listed instead of those of this host.
    History(history::HistoryArgs),
    /// Rehearse on this machine with HAProxy and nginx in network namespaces
    Lab(lab::LabArgs),
    /// Print the JSON Schema of switchman.yaml
    Schema,
    /// Print shell completions
    ///
    /// Names of hosts and services come from switchman.yaml. Versions and ids are read from the hosts, in at most a second.
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write all pages into a directory
    Man(man::ManArgs),
    /// Supervise one instance: started by switchman itself where there is no systemd
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
}

impl Command {
    /// Returns how long the command may wait for the fleet lock.
    fn lock_wait_limit(&self) -> Duration {
        match self {
            Self::EnableForward(args) => args.lock_wait_limit(),
            Self::DisableForward(args) => args.lock_wait_limit(),
            Self::Roll(args) => args.lock_wait_limit(),
            Self::Promote(args) => args.lock_wait_limit(),
            Self::Deploy(args) => args.lock_wait.limit(),
            Self::Assign(args) => args.lock_wait.limit(),
            Self::Mirror(args) => args.lock_wait_limit(),
            Self::Canary(args) => args.lock_wait_limit(),
            Self::Access(args) => args.lock_wait.limit(),
            Self::Update(args) => args.lock_wait.limit(),
            Self::Kill(args) => args.lock_wait.limit(),
            Self::Merge(args) => args.lock_wait.limit(),
            Self::Lock(args) => args.lock_wait_limit(),
            _ => Duration::ZERO,
        }
    }

    /// Returns the reaction of the command to signals.
    fn interrupt_policy(&self) -> InterruptPolicy {
        match self {
            Self::Agent(_) | Self::Proxy(_) | Self::Supervise(_) => InterruptPolicy::Serve,
            Self::Lab(args) => args.interrupt_policy(),
            Self::Status(args) => args.interrupt_policy(),
            Self::Ls(args) => args.interrupt_policy(),
            Self::Describe(args) => args.interrupt_policy(),
            Self::Logs(args) => args.interrupt_policy(),
            Self::Roll(args) if !args.is_read_only() => interrupt::ROLL,
            Self::Promote(args) if !args.is_read_only() => interrupt::PROMOTE,
            Self::Deploy(args) if !args.is_read_only() => args.interrupt_policy(),
            Self::Assign(_) => interrupt::ASSIGN,
            Self::EnableForward(_) | Self::DisableForward(_) => interrupt::SWITCH,
            Self::Kill(_) => interrupt::KILL,
            Self::Update(_) => interrupt::UPDATE,
            Self::Mirror(_)
            | Self::Canary(_)
            | Self::Rollback(_)
            | Self::Access(_)
            | Self::Merge(_)
            | Self::Restore => interrupt::CHANGE,
            Self::Roll(_)
            | Self::Promote(_)
            | Self::Deploy(_)
            | Self::Init(_)
            | Self::Check(_)
            | Self::Compare(_)
            | Self::Verify(_)
            | Self::Lock(_)
            | Self::Journal(_)
            | Self::Metrics(_)
            | Self::History(_)
            | Self::Schema
            | Self::Completions(_)
            | Self::Man(_) => InterruptPolicy::Fail,
        }
    }
}

/// Answers a shell that completes a command line. Returns `false` if no shell requested it, so that the command is to be run.
pub fn answer_shell(words: Vec<OsString>, world_factory: WorldFactory) -> bool {
    completions::answer_shell(words, Cli::command, world_factory)
}

/// Runs one command line to its end.
pub fn run(cli: Cli, world_factory: WorldFactory) -> ExitStatus {
    let Cli { globals, command } = cli;
    start_log(globals.verbose);
    let render = Arc::new(Renderer::new(
        globals.output == OutputFormat::Json,
        globals.no_color,
        globals.time_format,
        globals.service.as_ref(),
    ));
    if let Command::Supervise(args) = &command {
        // No runtime, no threads and no handlers of signals: its processes are long-lived, or about to be other programs.
        return supervise::run(args, world_factory, &render);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return render.print_failure(&fail_system("start")(error)),
    };
    let result = runtime.block_on(async {
        let (stopper, stop) = stop::create_channel();
        let (policy, prompt) = (command.interrupt_policy(), PromptState::default());
        interrupt::handle_signals(policy, stopper, prompt.clone(), render.clone())?;
        let changes = ChangeTracker::default();
        let context = Context {
            globals,
            renderer: render.clone(),
            world_factory,
            stop: stop.clone(),
            prompt,
            changes: changes.clone(),
            lock_wait_limit: command.lock_wait_limit(),
            ssh_environment: OnceLock::new(),
        };
        let work = async {
            let result = dispatch(command, &context).await;
            changes.wait_until_none().await;
            result
        };
        tokio::select! {
            biased;
            result = work => result,
            result = policy.wait_for_end(&stop) => result,
        }
    });
    // A read of standard input cannot be cancelled, and no task waits for it.
    runtime.shutdown_background();
    match result.and_then(|()| render.flush()) {
        Ok(()) => ExitStatus::Success,
        Err(failure) => render.print_failure(&failure),
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Init(args) => init::run(args, context).await,
        Command::EnableForward(args) => forward::enable(args, context).await,
        Command::DisableForward(args) => forward::disable(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Check(args) => check::run(args, context).await,
        Command::Restore => restore::run(context).await,
        Command::Roll(args) => roll::run(args, context).await,
        Command::Deploy(args) => deployments::deploy(args, context).await,
        Command::Ls(args) => deployments::ls(args, context).await,
        Command::Describe(args) => deployments::describe(args, context).await,
        Command::Assign(args) => deployments::assign(args, context).await,
        Command::Mirror(args) => deployments::set_mirror(args, context).await,
        Command::Compare(args) => deployments::compare(args, context).await,
        Command::Canary(args) => deployments::set_canary(args, context).await,
        Command::Rollback(args) => deployments::rollback(args, context).await,
        Command::Promote(args) => promote::run(args, context).await,
        Command::Update(args) => deployments::update(args, context).await,
        Command::Merge(args) => deployments::merge(args, context).await,
        Command::Verify(args) => deployments::verify(args, context).await,
        Command::Access(args) => deployments::set_access(args, context).await,
        Command::Kill(args) => deployments::kill(args, context).await,
        Command::Logs(args) => deployments::show_logs(args, context).await,
        Command::Lock(args) => lock::run(args, context).await,
        Command::Journal(args) => journal::run(args, context).await,
        Command::Agent(args) => Box::pin(agent::run(args, context)).await,
        Command::Metrics(args) => metrics::run(args, context).await,
        Command::Proxy(args) => proxy::run(args, context).await,
        Command::History(args) => history::run(&args, context).await,
        Command::Lab(args) => lab::run(args, context).await,
        Command::Schema => schema::run(context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, Cli::command(), context),
        // `run` has handled it before the runtime exists.
        Command::Supervise(_) => Ok(()),
    }
}

fn start_log(verbose: u8) {
    let level = ["warn", "switchman=info", "switchman=debug"][usize::from(verbose.min(2))];
    let filter = env::read_log_filter().unwrap_or_else(|| level.to_owned());
    // A second logger in one process (tests) is no reason to fail.
    // rustls_platform_verifier logs as an error what the caller reports with its address.
    let _ = env_logger::Builder::new()
        .parse_filters(&filter)
        .filter_module("rustls_platform_verifier", log::LevelFilter::Off)
        .format_timestamp_millis()
        .try_init();
}
