//! `init --from`: switchman.yaml from an existing haproxy.cfg.

use std::path::{Path, PathBuf};

use crate::cli::Context;
use crate::cli::failure::{fail_file, fail_usage};
use crate::cli::haproxy_files::read_haproxy_cfg;
use crate::config::parse_config;
use crate::error::Failure;
use crate::lint::{AdoptionOptions, adopt_haproxy, lint_haproxy};
use crate::model::finding::Severity;
use crate::ops::init;
use crate::plan::init_steps::{AdoptedSet, list_adoption_steps};
use crate::templates::fleet_yaml::render_fleet_yaml;
use crate::templates::working_set::{FileContent, NewFile};

pub(super) struct FromParams {
    pub files: Vec<PathBuf>,
    pub dir: Option<PathBuf>,
    pub force: bool,
    pub options: AdoptionOptions,
}

pub(super) fn init_from_haproxy(params: &FromParams, context: &Context) -> Result<(), Failure> {
    let Some(cfg) = read_haproxy_cfg(&params.files)? else {
        return Err(fail_usage("init", "read haproxy.cfg", "no file was named"));
    };
    let base = parse_config(Path::new("switchman.yaml"), "service: default\n")?;
    let adoption = adopt_haproxy(&cfg, &base, &params.options).map_err(Failure::Adoption)?;
    let dir = params.dir.clone().unwrap_or_else(|| PathBuf::from(adoption.fleet.service.as_str()));
    let dir = std::path::absolute(&dir).map_err(fail_file("find", &dir))?;
    let names: Vec<&str> = cfg.files.iter().map(|file| file.name.as_str()).collect();
    let yaml = render_fleet_yaml(&adoption.fleet, &names.join(", "));
    // What does not load is not written; the lint judges what was loaded.
    let fleet = parse_config(&dir.join("switchman.yaml"), &yaml)?;
    let mut remaining = lint_haproxy(&fleet, Some(&adoption.changed));
    remaining.retain(|finding| matches!(finding.severity, Severity::Problem | Severity::Warning));
    let set = [NewFile { path: "switchman.yaml".into(), content: FileContent::Text(yaml) }];
    let world = context.build_host_world(None);
    let written = init::write_all(world.files.as_ref(), &dir, &set, params.force).map_err(Failure::Init)?;
    let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
    let cfg_files: Vec<PathBuf> = params.files.iter().map(absolute).collect();
    let has_endpoint = fleet.balancers.iter().any(|balancer| balancer.stats_endpoint.is_some());
    let set = AdoptedSet {
        dir: &dir,
        files: &cfg_files,
        has_changes: !adoption.changes.is_empty(),
        is_state_readable: has_endpoint && !adoption.adds_socket,
        balancer: params.options.balancer,
    };
    let steps = list_adoption_steps(&fleet, &set);
    context.renderer.print_adoption(&written, &adoption, &remaining, &steps);
    Ok(())
}
