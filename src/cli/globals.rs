//! The options of every command.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::render::TimeFormat;
use crate::config::{TrustedUsers, env};
use crate::model::name::ServiceName;

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct GlobalArgs {
    /// Read this configuration [default: ./switchman.yaml, then /etc/switchman/switchman.yaml]
    #[arg(long, global = true, value_name = "FILE", env = "SWITCHMAN_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Obey the configuration as root although another user could change it.
    ///
    /// Without this flag, root and sudo refuse a switchman.yaml that is owned by another user or writable for one, as
    /// its directories and the files that its hooks name.
    #[arg(long, global = true, env = "SWITCHMAN_TRUST_CONFIG", value_parser = FalseyValueParser::new())]
    pub(super) trust_config: bool,
    /// Keep desired state and history in this directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SWITCHMAN_STATE_DIR",
        default_value = "/var/lib/switchman"
    )]
    pub(super) state_dir: PathBuf,
    /// Unpack releases into this directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SWITCHMAN_RELEASES_DIR",
        default_value = "/srv/switchman"
    )]
    pub(super) releases_dir: PathBuf,
    /// Keep a fleet's journal and lock in this directory [default: .switchman beside the configuration]
    #[arg(long, global = true, value_name = "DIR", env = "SWITCHMAN_JOURNAL_DIR")]
    pub(super) journal_dir: Option<PathBuf>,
    /// Print results to stdout in this format
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Table)]
    pub(super) output: OutputFormat,
    /// Print times in this format; JSON, errors and findings have RFC 3339
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = TimeFormat::Human)]
    pub(super) time_format: TimeFormat,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub(super) yes: bool,
    /// Act on this service of the configuration [default: its first]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) service: Option<ServiceName>,
    /// Treat this machine as the host of --host, regardless of its name and addresses
    #[arg(long, global = true)]
    pub(super) local: bool,
    /// Log more to stderr; give it twice to log everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// Print without colours; NO_COLOR does the same
    #[arg(long, global = true)]
    pub(super) no_color: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Table,
    Json,
}

impl GlobalArgs {
    /// The users whose configuration the command obeys; `None`: any.
    pub(super) fn trusted_users(&self) -> Option<TrustedUsers> {
        if self.trust_config { None } else { TrustedUsers::of_process(env::read_sudo_uid()) }
    }
}
