//! `lab up | down | status | demo`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use super::Context;
use super::failure::fail_system;
use super::interrupt::{self, InterruptPolicy};
use crate::error::Failure;
use crate::lab::app::{self, AppOptions, Fault};
use crate::lab::operator::{LabTransport, Operator};
use crate::lab::{self, Lab, LabOptions, demo, namespaces};
use crate::model::name::HostName;

#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build a lab and leave it running
    ///
    /// A lab has network namespaces, HAProxy and web hosts with both vhosts. Refused while a lab of that name is up.
    Up(UpArgs),
    /// Remove a lab, even one that a crash left behind
    Down(NameArgs),
    /// Show what a lab consists of
    Status(NameArgs),
    /// Deploy under load, by hand and with a roll that fails and resumes
    Demo(UpArgs),
    /// Run the rehearsal application that a vhost proxies to
    #[command(hide = true)]
    App(AppArgs),
}

impl LabArgs {
    pub(super) const fn interrupt_policy(&self) -> InterruptPolicy {
        match self.command {
            LabCommand::Up(_) | LabCommand::Down(_) | LabCommand::Demo(_) => interrupt::LAB,
            LabCommand::Status(_) => InterruptPolicy::Fail,
            LabCommand::App(_) => InterruptPolicy::Serve,
        }
    }
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Name the lab; everything it creates carries this name
    #[arg(long, default_value = "lab")]
    name: HostName,
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Create this many web hosts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    hosts: u8,
    /// Create this many load balancers, each with its own HAProxy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    balancers: u8,
}

#[derive(Debug, Args)]
struct AppArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    host: String,
    #[arg(long)]
    vhost: String,
    /// Report this version, in place of the global `--version` of switchman itself
    #[arg(long = "version")]
    version: String,
    /// Fail in this manner, as a bad version
    #[arg(long, value_enum)]
    fault: Option<Fault>,
}

pub async fn run(args: LabArgs, context: &Context) -> Result<(), Failure> {
    match args.command {
        LabCommand::Up(args) => {
            let lab = start_lab(&args, context).await?;
            Operator::start(&lab, LabTransport::Ssh, "").await?;
            context.renderer.print_lab_up(&args.name.name, lab.dir(), lab.switchman());
            Ok(lab.keep_running()?)
        }
        LabCommand::Down(args) => Ok(lab::tear_down(&args.name).await?),
        LabCommand::Status(args) => {
            context.renderer.print_lab_status(&args.name, &namespaces::inspect(&args.name).await?);
            Ok(())
        }
        LabCommand::Demo(args) => {
            let mut lab = start_lab(&args, context).await?;
            let report = demo::run(&mut lab, context.renderer.as_ref(), &context.stop).await;
            lab.tear_down().await?;
            let report = report?;
            context.renderer.print_demo(&report);
            match report.faults.len() {
                0 => Ok(()),
                _ => Err(Failure::DemoFailed { faults: report.faults }),
            }
        }
        LabCommand::App(AppArgs { listen, host, vhost, version, fault }) => {
            let options = AppOptions { listen, host, vhost, version, fault };
            let served = app::serve(options, context.stop.clone()).await;
            served.map_err(|source| Failure::Listen { address: listen, source })
        }
    }
}

async fn start_lab(args: &UpArgs, context: &Context) -> Result<Lab, Failure> {
    if lab::is_up(&args.name.name) {
        return Err(lab::LabError::Up { name: args.name.name.to_string() }.into());
    }
    let switchman = std::env::current_exe().map_err(fail_system("find the program of switchman"))?;
    let options = LabOptions {
        hosts: args.hosts,
        balancers: args.balancers,
        ..LabOptions::new(args.name.name.clone(), switchman)
    };
    tokio::select! {
        lab = Lab::start(options) => Ok(lab?),
        () = context.stop.wait() => Err(lab::LabError::Interrupted.into()),
    }
}
