//! `compare`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{load_and_list, parse_name, require_version};
use crate::cli::Context;
use crate::cli::failure::{fail_file, fail_version};
use crate::cli::host_args::HostArgs;
use crate::cli::render;
use crate::error::{Failure, Subject};
use crate::model::field::Field;
use crate::model::percent::Percent;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, CompareOptions};
use crate::plan::compare::{ComparedHeaders, ComparisonReport, ComparisonVerdict, Criteria};

#[derive(Debug, Args)]
#[command(override_usage = "switchman compare [OPTIONS] <NAME VERSION | ID>")]
#[command(mut_arg("hosts", |arg| arg.help("Compare the answers of this host only; may be given several times [default: every host]")))]
pub struct CompareArgs {
    /// The service, or the id of a deployment
    name: String,
    /// The version that gets copies; omit it when NAME is an id
    version: Option<Version>,
    /// Give no verdict with fewer compared answers than this
    #[arg(long, value_name = "N", default_value = "100")]
    min_samples: u64,
    /// Require this share of the answers to match [default: every one]
    #[arg(long, value_name = "P")]
    require_match: Option<Percent>,
    /// Ignore differences in this field; may be given several times.
    ///
    /// Fields are status, body, `header NAME` and JSON paths such as $.items[].price.
    #[arg(long = "ignore", value_name = "FIELD")]
    ignore: Vec<Field>,
    /// Compare these headers: `usual`, `all`, or names between commas.
    ///
    /// The usual ones are those that a client acts on; the report lists them. The verdict names every other header that differs.
    #[arg(long, value_name = "NAMES", default_value = "usual")]
    headers: ComparedHeaders,
    /// Also write the report as an HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    hosts: HostArgs,
}

pub async fn compare(args: CompareArgs, context: &Context) -> Result<(), Failure> {
    require_version(&args.name, args.version.as_ref(), || {
        format!("compare a version of {} with main", args.name)
    })?;
    let name = parse_name(&args.name, args.version.as_ref())?;
    let (place, listing) = load_and_list(context, &name, &args.hosts).await?;
    let row = listing.resolve(&name)?;
    let criteria = Criteria {
        require_match: args.require_match,
        min_samples: args.min_samples,
        ignore: args.ignore,
        headers: args.headers,
    };
    let options = CompareOptions { service: row.service.clone(), version: row.version.clone(), criteria };
    let action = format!("compare {} {} with main", row.service, row.version);
    let report = deployments::compare(&place.world, &place.hosts, &listing, &options).await;
    let report = report.map_err(fail_version(action, &row.service, Some(&row.version)))?;
    if let Some(file) = &args.html {
        write_html_report(file, &report)?;
    }
    context.renderer.print_comparison(&report);
    let ComparisonReport { verdict, reason, .. } = report;
    let subject = Subject { service: row.service.clone(), version: Some(row.version.clone()) };
    match verdict {
        ComparisonVerdict::Same => Ok(()),
        ComparisonVerdict::Differs => Err(Failure::AnswersDiffer { reason, subject }),
        ComparisonVerdict::Insufficient => Err(Failure::InsufficientSamples { reason, subject }),
    }
}

fn write_html_report(file: &Path, report: &ComparisonReport) -> Result<(), Failure> {
    std::fs::write(file, render::format_html_page(report)).map_err(fail_file("write", file))
}
