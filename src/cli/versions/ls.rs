//! `ls`, `describe` and `logs`: what there is.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Place, pick, service_of};
use crate::cli::Context;
use crate::error::Failure;
use crate::model::duration;
use crate::model::name::HostName;
use crate::model::version::Version;
use crate::model::versions::LogsRequest;
use crate::ops::versions::{VersionsError, list};
use crate::world::link::Heard;

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only this service, or the deployment with this id
    name: Option<String>,
    /// Only this version of it
    version: Option<Version>,
    /// Only this host; may be given several times [default: every host]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<HostName>,
    /// More columns; STATUS says Active, Draining or Drained
    #[arg(short = 'W', long)]
    wide: bool,
    /// Show it again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Between two looks of --watch
    #[arg(short = 'n', long, value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    interval: Duration,
}

pub async fn ls(args: LsArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::any(context, &args.hosts)?;
    loop {
        let listing = list(&place.world, &place.hosts).await;
        let listing = match &args.name {
            Some(name) => pick(listing, name, args.version.as_ref())?,
            None => listing,
        };
        if args.watch {
            context.render.home();
        }
        place.say_host(context);
        context.render.listing(&listing, args.wide);
        if !args.watch {
            return unread(&listing.unread);
        }
        context.render.flush()?;
        tokio::select! {
            () = context.stop.requested() => return Ok(()),
            () = tokio::time::sleep(args.interval) => {}
        }
    }
}

/// A list that is not whole is not a success.
fn unread(hosts: &[(HostName, String)]) -> Result<(), Failure> {
    if hosts.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = hosts.iter().map(|(host, why)| format!("{host}: {why}")).collect();
    Err(Failure::Other { what: "ask every host".into(), why: names.join("; ") })
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The service, or the id of a deployment
    name: String,
    /// Only this version of it
    version: Option<Version>,
    /// Only this host; may be given several times [default: every host]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<HostName>,
}

pub async fn describe(args: DescribeArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::any(context, &args.hosts)?;
    let listing = pick(list(&place.world, &place.hosts).await, &args.name, args.version.as_ref())?;
    if listing.rows.is_empty() {
        return Err(VersionsError::NoMatch.into());
    }
    context.render.described(&listing);
    unread(&listing.unread)
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The service, or the id of a deployment
    name: String,
    /// Its version [default: main]
    version: Option<Version>,
    /// Only this host; may be given several times [default: every host]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<HostName>,
    /// The last so many lines, or `all`
    #[arg(short = 'n', long, value_name = "N|all", default_value = "50", value_parser = tail)]
    tail: Tail,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u32>);

/// D28
fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail(None));
    }
    let number = text.parse().map(|lines| Tail(Some(lines)));
    number.map_err(|_| "Wrong input type for tail, needs to be an integer or \"all\"".to_owned())
}

pub async fn logs(args: LogsArgs, context: &Context) -> Result<(), Failure> {
    let service = service_of(context, &args.name, &args.hosts).await?;
    let place = Place::of(context, &service, &args.hosts)?;
    let row = place.row(&args.name, args.version.as_ref()).await?;
    let request = LogsRequest { id: row.id.clone(), tail: args.tail.0, follow: args.follow };
    let one_host = row.hosts.len() == 1;
    let all = row.hosts.iter().map(async |(host, _)| {
        let Some(link) = place.world.links.get(host) else { return Ok(()) };
        let (render, name) = (context.render.clone(), host.clone());
        let heard: Heard = Arc::new(move |line: &str| {
            render.log_line(if one_host { None } else { Some(&name) }, line);
        });
        link.logs(&request, heard).await.map_err(|error| (host.clone(), error))
    });
    let all = futures_util::future::join_all(all);
    tokio::select! {
        ended = all => {
            let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
            if failed.is_empty() { Ok(()) } else { Err(VersionsError::Hosts(failed).into()) }
        }
        () = context.stop.requested() => Ok(()),
    }
}
