//! `init --add-host`: another host in an existing switchman.yaml.

use std::path::Path;

use crate::cli::Context;
use crate::cli::failure::fail_file;
use crate::cli::host_address_arg::{HostAddressArg, find_duplicate};
use crate::config;
use crate::config::host_edit;
use crate::config::host_edit::HostEditError;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::{Host, Transport};
use crate::plan::init_steps::{list_added_host_steps, list_server_lines};
use crate::templates::fleet_yaml::render_host_entry;
use crate::world::files::FilesError;

pub(super) fn add_hosts(new: &[HostAddressArg], context: &Context) -> Result<(), Failure> {
    let (file, fleet) =
        config::load_config(context.globals.config.as_deref(), context.globals.trusted_users().as_ref())?;
    let refuse = |error: HostEditError| Failure::AddHost { file: file.clone(), error };
    if let Some(reason) = find_duplicate(&fleet.hosts, new) {
        return Err(refuse(HostEditError::Duplicate(reason)));
    }
    // A link stays a link.
    let path = file.canonicalize().map_err(fail_file("find", &file))?;
    let text = std::fs::read_to_string(&path).map_err(fail_file("read", &path))?;
    let hosts: Vec<Host> = new.iter().map(HostAddressArg::to_host).collect();
    let entries: Vec<String> = hosts.iter().map(render_host_entry).collect();
    let edited = host_edit::add_hosts(&text, &entries).map_err(|error| {
        let is_hidden = error == HostEditError::NoHosts && !fleet.hosts.is_empty();
        refuse(if is_hidden { HostEditError::UnknownForm } else { error })
    })?;
    let expected = Fleet { hosts: [fleet.hosts.clone(), hosts.clone()].concat(), ..fleet.clone() };
    // The text was changed without understanding it: only what it now means counts.
    if config::parse_config(&file, &edited).ok().as_ref() != Some(&expected) {
        return Err(refuse(HostEditError::UnknownForm));
    }
    let world = context.build_host_world(None);
    world.files.write(&path, &edited).map_err(|error: FilesError| Failure::Init(error.into()))?;
    let lines: Vec<_> = hosts.iter().flat_map(|host| list_server_lines(&expected, host)).collect();
    let steps = list_added_host_steps(&expected, &hosts, absolute(&file).as_path());
    context.renderer.print_added_hosts(&file, &hosts, &lines, has_other_transport(&fleet), &steps);
    Ok(())
}

fn absolute(file: &Path) -> std::path::PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// Whether the hosts that are there are reached in another way than by ssh under their names.
fn has_other_transport(fleet: &Fleet) -> bool {
    let is_default = |host: &Host| host.transport == Transport::Ssh(host.name.to_string());
    !fleet.hosts.iter().all(is_default)
}
