//! `promote`.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::deployments::parse_sticky;
use super::host_args::HostArgs;
use super::lock_wait_args::LockWaitArgs;
use super::render::PromotionView;
use crate::config::env;
use crate::error::Failure;
use crate::model::duration;
use crate::model::field::Field;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::promote::{PromotionSpec, Ratio, Steps};
use crate::model::proxy::Sticky;
use crate::model::version::Version;
use crate::ops::fleet::promote::{self, PromotionError};

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.conflicts_with("verb")))]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct PromoteArgs {
    /// The service
    name: ServiceName,
    /// The version to promote; omit it with --status, --approve, --resume and --abort
    #[arg(required_unless_present = "verb", conflicts_with = "verb")]
    version: Option<Version>,
    /// Give the canary these shares of the requests, one after another.
    ///
    /// With --sticky they are shares of the users. After the last step the version becomes main.
    #[arg(long, value_name = "P,P,...", default_value = "1,5,25,50,100", conflicts_with = "verb")]
    steps: Steps,
    /// Judge each share for at least this long
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_interval, conflicts_with = "verb")]
    interval: Duration,
    /// Roll back if the canary's error rate exceeds this and main's.
    ///
    /// It has to be significantly higher than main's over the same minutes. If main is as bad, the promotion holds.
    #[arg(long, value_name = "P", default_value = "0.5%", conflicts_with = "verb")]
    max_error_rate: Percent,
    /// Roll back if the canary's p99 exceeds this multiple of main's
    #[arg(long, value_name = "N", default_value = "1.2", conflicts_with = "verb")]
    max_p99_ratio: Ratio,
    /// Do not judge latency
    #[arg(long, conflicts_with_all = ["max_p99_ratio", "verb"])]
    any_latency: bool,
    /// Require this share of its shadow answers to match main's.
    ///
    /// It is checked before the first step, over at least --min-samples answers to mirrored requests.
    #[arg(long, value_name = "P", conflicts_with = "verb")]
    require_match: Option<Percent>,
    /// Ignore this field for --require-match; may be given several times
    #[arg(long = "ignore", value_name = "FIELD", requires = "require_match")]
    ignore: Vec<Field>,
    /// Hold a step with fewer canary requests than this in an interval.
    ///
    /// The requests of all hosts are counted, and every interval starts from zero. A small share of little traffic needs a
    /// longer --interval or greater --steps.
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "verb")]
    min_samples: u64,
    /// Keep each user on the same version, by cookie or header:NAME.
    ///
    /// With cookie, the proxy sets one; header:NAME is for clients without cookies.
    #[arg(long, value_name = "cookie|header:NAME", value_parser = parse_sticky, conflicts_with = "verb")]
    sticky: Option<Sticky>,
    /// Wait for --approve after each step; the canary is judged during the wait
    #[arg(long, conflicts_with = "verb")]
    require_approval: bool,
    /// Watch the new main for this long; 0s: not at all [default: versions.watch, or 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    watch: Option<Duration>,
    #[command(flatten)]
    hosts: HostArgs,
    #[command(flatten)]
    lock_wait: LockWaitArgs,
    /// Show the progress of the last promotion
    #[arg(long, group = "verb")]
    status: bool,
    /// Approve the step that waits for approval, from any terminal
    #[arg(long, group = "verb")]
    approve: bool,
    /// Resume the last promotion with its original options.
    ///
    /// It continues at the step where it stopped, which is judged again. A promotion that ended with a breach cannot be
    /// resumed.
    #[arg(long, group = "verb")]
    resume: bool,
    /// Abort the last promotion, even a running one: main answers everything again
    #[arg(long, group = "verb")]
    abort: bool,
}

impl PromoteArgs {
    pub(super) const fn is_read_only(&self) -> bool {
        self.status || self.approve
    }

    /// Returns zero for `--abort`, which ends the promotion that holds the lock.
    pub(super) fn lock_wait_limit(&self) -> Duration {
        if self.abort { Duration::ZERO } else { self.lock_wait.limit() }
    }
}

/// A shorter interval would be over after a few samples.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text).map_err(|error| error.to_string())?;
    if interval < MIN_INTERVAL { Err("an interval is at least 1s".to_owned()) } else { Ok(interval) }
}

pub async fn run(args: PromoteArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_service_config(&args.name).await?;
    let hosts = context.select_hosts_or_all(&fleet, &args.hosts)?;
    let (world, actor) = (context.build_fleet_world(&file, &fleet, &hosts), env::read_actor());
    if args.status {
        let view = PromotionView {
            progress: promote::read_last(&world).await?,
            lock: world.lock.read_holder().await?,
        };
        context.renderer.print_promotion_status(&view);
        return Ok(());
    }
    if args.approve {
        let progress = promote::approve(&world, &fleet, &actor).await?;
        context.renderer.print_approval(&progress);
        return Ok(());
    }
    if args.abort {
        let report = promote::abort(&world, &fleet, &actor).await?;
        return context.renderer.print_abort_result(&report);
    }
    if args.resume {
        let report = promote::resume(&world, &fleet, &actor).await?;
        return context.renderer.print_promotion_result(&report);
    }
    let spec = build_spec(args, &fleet, &hosts)?;
    let report = promote::run(&world, &fleet, &spec, &actor).await?;
    context.renderer.print_promotion_result(&report)
}

fn build_spec(args: PromoteArgs, fleet: &Fleet, hosts: &[Host]) -> Result<PromotionSpec, Failure> {
    let none = || PromotionError::NotFound { service: args.name.clone(), verb: "begin" };
    let version = args.version.ok_or_else(none)?;
    Ok(PromotionSpec {
        service: args.name,
        version,
        hosts: hosts.iter().map(|host| host.name.clone()).collect(),
        steps: args.steps,
        interval: args.interval,
        max_error_rate: args.max_error_rate,
        max_p99_ratio: (!args.any_latency).then_some(args.max_p99_ratio),
        require_match: args.require_match,
        ignore: args.ignore,
        min_samples: args.min_samples,
        sticky: args.sticky,
        require_approval: args.require_approval,
        watch: args.watch.unwrap_or(fleet.versions.watch),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind::{self, ArgumentConflict, MissingRequiredArgument, ValueValidation};

    use crate::cli::Cli;

    fn read(args: &str) -> Result<(), ErrorKind> {
        let line = format!("switchman promote {args}");
        Cli::try_parse_from(line.split(' ')).map(|_| ()).map_err(|error| error.kind())
    }

    /// The journal has the original options: a flag given with `--resume` would be ignored.
    #[test]
    fn promote_verbs_conflict_with_flags_of_a_new_promotion() {
        for flag in
            ["2.0.0", "--steps 5,50", "--host web1", "--require-approval", "--interval 1m", "--min-samples 9"]
        {
            for verb in ["--status", "--approve", "--resume", "--abort"] {
                assert_eq!(read(&format!("shop {flag} {verb}")), Err(ArgumentConflict), "{flag} {verb}");
            }
        }
        assert_eq!(read("shop --resume --abort"), Err(ArgumentConflict));
        assert_eq!(read("shop --status --output json"), Ok(()));
    }

    #[test]
    fn promote_requires_version_and_valid_steps() {
        assert_eq!(read("shop"), Err(MissingRequiredArgument));
        for bad in ["--steps 100", "--steps 5,1", "--interval 500ms", "--max-p99-ratio 0.5", "--sticky ip"] {
            assert_eq!(read(&format!("shop 2.0.0 {bad}")), Err(ValueValidation), "{bad}");
        }
        let all = "--steps 1,5,25,50,100 --interval 1m --max-error-rate 1% --max-p99-ratio 1.2 --require-match 99.9% \
                   --min-samples 50 --sticky cookie --require-approval --host web1 --host web2";
        assert_eq!(
            read(&format!("shop 2.0.0 {}", all.split_whitespace().collect::<Vec<_>>().join(" "))),
            Ok(())
        );
        assert_eq!(read("shop 2.0.0 --any-latency --max-p99-ratio 2"), Err(ArgumentConflict));
    }
}
