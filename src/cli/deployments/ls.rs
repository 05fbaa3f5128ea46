//! `ls`, `describe` and `logs`: what there is.

use std::sync::Arc;

use clap::Args;

use super::{CommandTarget, load_and_list, parse_name};
use crate::cli::Context;
use crate::cli::failure::fail_version;
use crate::cli::host_args::HostArgs;
use crate::cli::interrupt::InterruptPolicy;
use crate::cli::refresh_args::RefreshArgs;
use crate::error::Failure;
use crate::model::api::deployments::LogsRequest;
use crate::model::name::HostName;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, FleetDeployError};
use crate::world::link::SharedLineSink;

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("List this host only; may be given several times [default: every host]")))]
pub struct LsArgs {
    /// Show this service only, or the deployment with this id
    name: Option<String>,
    /// Show this version only
    version: Option<Version>,
    #[command(flatten)]
    hosts: HostArgs,
    /// Show more columns; STATUS is Active, Draining or Drained
    #[arg(short = 'W', long)]
    wide: bool,
    #[command(flatten)]
    refresh: RefreshArgs,
}

impl LsArgs {
    pub const fn interrupt_policy(&self) -> InterruptPolicy {
        self.refresh.interrupt_policy()
    }
}

pub async fn ls(args: LsArgs, context: &Context) -> Result<(), Failure> {
    let place = CommandTarget::load_all_services(context, &args.hosts).await?;
    let name = args.name.as_deref().map(|name| parse_name(name, args.version.as_ref())).transpose()?;
    loop {
        let listing = place.list().await;
        let listing = match &name {
            Some(name) => {
                let listing = listing.filter_by_name(name);
                place.require_known(name, &listing)?;
                listing
            }
            None => listing,
        };
        if args.refresh.watch {
            context.renderer.clear_screen();
        }
        place.print_active_host(context);
        context.renderer.print_listing(&listing, args.wide);
        if !args.refresh.watch {
            return Ok(listing.require_answers(&place.hosts)?);
        }
        if !args.refresh.wait_for_next(context).await? {
            return Ok(());
        }
    }
}

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Show this host only; may be given several times [default: every host]")))]
pub struct DescribeArgs {
    /// The service, or the id of a deployment
    name: String,
    /// Show this version only
    version: Option<Version>,
    #[command(flatten)]
    hosts: HostArgs,
    #[command(flatten)]
    refresh: RefreshArgs,
}

impl DescribeArgs {
    /// Returns the reaction of the command to signals.
    pub const fn interrupt_policy(&self) -> InterruptPolicy {
        self.refresh.interrupt_policy()
    }
}

pub async fn describe(args: DescribeArgs, context: &Context) -> Result<(), Failure> {
    let place = CommandTarget::load_all_services(context, &args.hosts).await?;
    let name = parse_name(&args.name, args.version.as_ref())?;
    loop {
        let listing = place.list().await.filter_by_name(&name);
        place.require_known(&name, &listing)?;
        if listing.rows.is_empty() {
            listing.require_complete()?;
            return Err(FleetDeployError::NoMatch.into());
        }
        if args.refresh.watch {
            context.renderer.clear_screen();
        }
        place.print_active_host(context);
        context.renderer.print_description(&listing);
        if !args.refresh.watch {
            return Ok(listing.require_answers(&place.hosts)?);
        }
        if !args.refresh.wait_for_next(context).await? {
            return Ok(());
        }
    }
}

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Show the logs of this host only; may be given several times [default: every host]")))]
pub struct LogsArgs {
    /// The service, or the id of a deployment
    name: String,
    /// The version of the service [default: main]
    version: Option<Version>,
    #[command(flatten)]
    hosts: HostArgs,
    /// Show this many of the latest lines, or `all` [default: 50, or all with --date]
    #[arg(short = 'n', long, value_name = "N|all", value_parser = parse_tail)]
    tail: Option<Tail>,
    /// Show lines from this time on, such as `2026-11-27` or `2026-11-27 08:30`, in UTC
    #[arg(short, long, value_parser = parse_date)]
    date: Option<jiff::Timestamp>,
    /// Follow new lines until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u32>);

const DEFAULT_TAIL: u32 = 50;

/// Seed row D28 (docs/design/seed-systems.md#mvi-and-daeploy).
fn parse_tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail(None));
    }
    let number = text.parse().map(|lines| Tail(Some(lines)));
    number.map_err(|_| "Wrong input type for tail, needs to be an integer or \"all\"".to_owned())
}

/// A date, a date and a time, or a complete timestamp with its zone.
fn parse_date(text: &str) -> Result<jiff::Timestamp, String> {
    let in_utc = |time: jiff::civil::DateTime| {
        time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    };
    let parsed = text.parse().ok().or_else(|| in_utc(text.parse().ok()?));
    parsed.ok_or_else(|| "expected a date such as `2026-11-27` or `2026-11-27 08:30`".to_owned())
}

/// Whether a line was written at this time or later; a line that begins with no time is shown.
fn is_since(line: &str, date: jiff::Timestamp) -> bool {
    let written_at = line.split(' ').next().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    written_at.is_none_or(|written_at| written_at >= date)
}

impl LogsArgs {
    pub const fn interrupt_policy(&self) -> InterruptPolicy {
        if self.follow { InterruptPolicy::Complete } else { InterruptPolicy::Fail }
    }
}

pub async fn show_logs(args: LogsArgs, context: &Context) -> Result<(), Failure> {
    let name = parse_name(&args.name, args.version.as_ref())?;
    let (place, listing) = load_and_list(context, &name, &args.hosts).await?;
    let row = listing.resolve(&name)?;
    let tail = args.tail.unwrap_or(Tail(if args.date.is_some() { None } else { Some(DEFAULT_TAIL) }));
    let request = LogsRequest { id: row.id.clone(), tail: tail.0, follow: args.follow };
    let date = args.date.unwrap_or(jiff::Timestamp::MIN);
    let one_host = row.hosts.len() == 1;
    let build_sink = |host: &HostName| -> SharedLineSink {
        let (render, name) = (context.renderer.clone(), (!one_host).then(|| host.clone()));
        Arc::new(move |line: &str| {
            if is_since(line, date) {
                render.print_log_line(name.as_ref(), line);
            }
        })
    };
    let streaming = deployments::stream_logs(&place.world, &place.hosts, row, &request, build_sink);
    let action = format!("show the logs of {} {}", row.service, row.version);
    if args.follow {
        for (host, error) in &listing.unread {
            context.renderer.print_remark(&format!("{host}: its lines are missing: {error}"));
        }
    }
    streaming.await.map_err(fail_version(action, &row.service, Some(&row.version)))?;
    Ok(listing.require_answers(&place.hosts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: D28.
    #[test]
    fn d28_logs_from_a_date() {
        let date = |text: &str| parse_date(text).map(|date| date.to_string());
        assert_eq!(date("2026-11-27").as_deref(), Ok("2026-11-27T00:00:00Z"));
        assert_eq!(date("2026-11-27 08:30").as_deref(), Ok("2026-11-27T08:30:00Z"));
        assert_eq!(date("2026-11-27T08:30:05+02:00").as_deref(), Ok("2026-11-27T06:30:05Z"));
        assert!(date("yesterday").is_err() && date("").is_err());
        let date = parse_date("2026-11-27 08:30").unwrap();
        assert!(is_since("2026-11-27T08:30:00.000001Z up", date) && is_since("no time", date));
        assert!(!is_since("2026-11-27T08:29:59.999999Z up", date));
    }
}
