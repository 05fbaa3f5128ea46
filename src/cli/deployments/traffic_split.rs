//! `mirror` and `canary`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{CommandTarget, load_and_list, parse_name, require_version};
use crate::cli::Context;
use crate::cli::failure::{fail_deployments, fail_usage, fail_version};
use crate::cli::host_args::HostArgs;
use crate::cli::lock_wait_args::LockWaitArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::percent::Percent;
use crate::model::proxy::{Canary, FieldMatch, Mirror, Sticky};
use crate::model::traffic_split::TrafficSplitChange;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, FleetDeployment, Listing, SplitOptions};

#[derive(Debug, Args)]
#[command(override_usage = "switchman mirror [OPTIONS] <NAME VERSION | ID>")]
pub struct MirrorArgs {
    /// The service, or the id of a deployment
    name: String,
    /// The version that gets copies; omit it when NAME is an id
    version: Option<Version>,
    /// Copy this share of the requests that match --methods and --path
    #[arg(long, value_name = "P", default_value = "100")]
    percent: Percent,
    /// Copy these methods only, such as GET,HEAD [default: all, POST and DELETE too]
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    methods: Vec<String>,
    /// Copy matching paths only; may be given several times.
    ///
    /// `*` matches within a segment, `**` over segments.
    #[arg(long = "path", value_name = "GLOB")]
    paths: Vec<String>,
    /// Remove this header from copies; may be given several times.
    ///
    /// An example is authorization.
    #[arg(long = "without-header", value_name = "NAME")]
    without_headers: Vec<String>,
    /// Do not compare the answers with main's
    #[arg(long)]
    no_compare: bool,
    /// Send this share of the compared requests to main a second time.
    ///
    /// Only GET and HEAD requests are repeated. A field that main answers differently by itself does not count as a difference.
    #[arg(long, value_name = "P", default_value = "0", conflicts_with = "no_compare")]
    control: Percent,
    /// Stop sending copies
    #[arg(long, conflicts_with_all = ["methods", "paths", "without_headers", "no_compare"])]
    off: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Append X-Forwarded-For and X-Forwarded-Proto in the proxy
    #[arg(long, conflicts_with = "off")]
    forwarded: bool,
    #[command(flatten)]
    hosts: HostArgs,
    /// Do not wait until load balancers' kept connections use the proxy
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    lock_wait: LockWaitArgs,
}

impl MirrorArgs {
    pub(in crate::cli) fn lock_wait_limit(&self) -> Duration {
        self.common.lock_wait.limit()
    }
}

impl CanaryArgs {
    pub(in crate::cli) fn lock_wait_limit(&self) -> Duration {
        self.common.lock_wait.limit()
    }
}

pub async fn set_mirror(args: MirrorArgs, context: &Context) -> Result<(), Failure> {
    let name = parse_name(&args.name, args.version.as_ref())?;
    let (place, listing) = load_and_list(context, &name, &args.common.hosts).await?;
    let row = listing.resolve(&name)?;
    place.print_active_host(context);
    let deployment = row.id.clone();
    if args.off {
        return apply_split(context, &place, row, TrafficSplitChange::RemoveMirror(deployment), &args.common)
            .await;
    }
    let is_every_method = args.methods.is_empty();
    let mirror = Mirror {
        deployment,
        percent: args.percent,
        methods: args.methods.iter().map(|method| method.to_ascii_uppercase()).collect(),
        paths: args.paths,
        without_headers: args.without_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
        compare: !args.no_compare,
        control: args.control,
    };
    apply_split(context, &place, row, TrafficSplitChange::SetMirror(mirror), &args.common).await?;
    if is_every_method {
        context.renderer.print_remark(&format!(
            "copies of requests of EVERY method go to {} {}: if what it writes reaches shared data, give --methods GET,HEAD",
            row.service, row.version
        ));
    }
    Ok(())
}

#[derive(Debug, Args)]
pub struct CanaryArgs {
    /// The service, or the id of a deployment
    name: String,
    /// The version that answers a share; optional with --off
    version: Option<Version>,
    /// Give it this share of the requests without --header or --cookie.
    ///
    /// With --sticky it is a share of the users.
    #[arg(long, value_name = "P")]
    percent: Option<Percent>,
    /// Keep each user on the same version, by cookie or header:NAME.
    ///
    /// With cookie, the proxy sets one; header:NAME is for clients without cookies.
    #[arg(long, value_name = "cookie|header:NAME", value_parser = parse_sticky, requires = "percent")]
    sticky: Option<Sticky>,
    /// Send it all requests with this header.
    ///
    /// The share does not apply to them. Without a value, the presence of the header is enough.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = parse_mark)]
    header: Option<FieldMatch>,
    /// Send it all requests with this cookie, regardless of the share
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = parse_mark)]
    cookie: Option<FieldMatch>,
    /// Split traffic in the proxy of each host, or by HAProxy's weights.
    ///
    /// The proxy splits by request. HAProxy splits by user, between the hosts where VERSION is main and the others, through a
    /// stats socket of level admin.
    #[arg(long, value_enum, default_value = "proxy")]
    via: ShareMechanism,
    /// Remove the canary: main answers everything again
    #[arg(long, conflicts_with_all = ["percent", "sticky", "header", "cookie"])]
    off: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShareMechanism {
    Proxy,
    Haproxy,
}

pub async fn set_canary(args: CanaryArgs, context: &Context) -> Result<(), Failure> {
    let name = parse_name(&args.name, args.version.as_ref())?;
    let (place, listing) = load_and_list(context, &name, &args.common.hosts).await?;
    let row = listing.resolve(&name)?;
    place.print_active_host(context);
    if args.via == ShareMechanism::Haproxy {
        return share_by_haproxy_weight(context, &place, &listing, row, &args).await;
    }
    if args.off {
        return apply_split(context, &place, row, TrafficSplitChange::RemoveCanary, &args.common).await;
    }
    require_version(&args.name, args.version.as_ref(), || {
        format!("give a version of {} a share", args.name)
    })?;
    let canary = Canary {
        deployment: row.id.clone(),
        percent: args.percent,
        sticky: args.sticky,
        header: args.header,
        cookie: args.cookie,
    };
    apply_split(context, &place, row, TrafficSplitChange::SetCanary(canary), &args.common).await
}

async fn share_by_haproxy_weight(
    context: &Context,
    place: &CommandTarget,
    listing: &Listing,
    row: &FleetDeployment,
    args: &CanaryArgs,
) -> Result<(), Failure> {
    if args.header.is_some()
        || args.cookie.is_some()
        || args.sticky.is_some()
        || args.percent.is_some() == args.off
    {
        return Err(fail_usage("canary", "share by weights", "--via haproxy takes --percent, or --off"));
    }
    let share = args.percent;
    let actor = env::read_actor();
    let setting = deployments::set_canary_weights(
        &place.world,
        &place.fleet,
        &place.hosts,
        listing,
        row,
        share,
        &actor,
    );
    let done = setting.await.map_err(fail_deployments(format!("set the weights of {}", row.service)))?;
    context.renderer.print_weights(&done, share.is_some());
    Ok(())
}

async fn apply_split(
    context: &Context,
    place: &CommandTarget,
    row: &FleetDeployment,
    change: TrafficSplitChange,
    common: &CommonArgs,
) -> Result<(), Failure> {
    let options = SplitOptions {
        service: row.service.clone(),
        change,
        forwarded: common.forwarded.then_some(true),
        wait: !common.no_wait,
        actor: env::read_actor(),
        detail: String::new(),
    };
    let action = describe_change(&options.change, row);
    let done = deployments::split(&place.world, &place.fleet, &place.hosts, &options).await;
    let done = done.map_err(fail_version(action, &row.service, Some(&row.version)))?;
    let listing = place.list().await.filter(Some(&row.service), None);
    context.renderer.print_split(&done, &listing);
    let split_row = listing.rows.iter().find(|split| split.id == row.id && !split.traffic.is_empty());
    if let Some(split_row) = split_row {
        place.print_maintenance(context, split_row, "it has no requests to copy or to share");
    }
    Ok(())
}

fn describe_change(change: &TrafficSplitChange, row: &FleetDeployment) -> String {
    let name = format!("{} {}", row.service, row.version);
    match change {
        TrafficSplitChange::SetMirror(_) => format!("mirror requests to {name}"),
        TrafficSplitChange::RemoveMirror(_) => format!("end the mirror of {name}"),
        TrafficSplitChange::SetCanary(_) => format!("make {name} a canary"),
        TrafficSplitChange::RemoveCanary => format!("end the canary of {}", row.service),
    }
}

/// `cookie`, `header:NAME`.
pub fn parse_sticky(text: &str) -> Result<Sticky, String> {
    match text.split_once(':') {
        None if text == "cookie" => Ok(Sticky::Cookie),
        Some(("header", name)) if !name.is_empty() => Ok(Sticky::Header(name.to_ascii_lowercase())),
        _ => Err("expected `cookie` or `header:NAME`".to_owned()),
    }
}

/// `NAME`, `NAME=VALUE`, and `NAME=` for an empty value.
#[allow(clippy::unnecessary_wraps, reason = "the signature that clap needs")]
fn parse_mark(text: &str) -> Result<FieldMatch, String> {
    Ok(match text.split_once('=') {
        Some((name, value)) => FieldMatch { name: name.to_owned(), value: Some(value.to_owned()) },
        None => FieldMatch { name: text.to_owned(), value: None },
    })
}
