//! The systemd units of the two vhosts that `init` writes. Pure.
//!
//! Sources: systemd.unit(5), systemd.service(5), systemd.exec(5), all of version 252.

use super::working_set::{TemplateError, VhostRole, WorkingSet, fill_template};
use crate::model::deployment::WebServer;

const UNIT: &str = include_str!("../../vhosts/systemd/vhost.service");

/// Returns `shop-main.service`.
pub fn format_unit_file_name(project: &str, role: VhostRole) -> String {
    format!("{project}-{}.service", role.as_str())
}

/// Renders the unit of a vhost. `file` is the absolute path of its configuration; neither it nor a directory of the set has a
/// character with a meaning in a unit.
pub fn render_vhost_unit(set: &WorkingSet, role: VhostRole, file: &str) -> Result<String, TemplateError> {
    let project = set.project.as_str();
    let backup = format_unit_file_name(project, VhostRole::Backup);
    // systemd stops units in the reverse order: at a shutdown, the backup vhost outlives the main vhost.
    let (port, order, advice) = match role {
        VhostRole::Main => (
            set.ports.main,
            format!("\nAfter=network.target switchman-restore.service {backup}\nWants={backup}"),
            format!(
                "Restart this unit only\n# while the host is in maintenance: switchman roll --remote -- systemctl restart \
                 {project}-main"
            ),
        ),
        VhostRole::Backup => (
            set.ports.backup,
            "\nAfter=network.target switchman-restore.service".to_owned(),
            "Restart this unit only\n# while the main vhost is UP on every balancer: it serves the users of this host in \
             maintenance."
                .to_owned(),
        ),
    };
    let (check, start, signal) = match set.server {
        WebServer::Nginx => (
            format!("/usr/sbin/nginx -t -q -e stderr -c {file}"),
            format!("/usr/sbin/nginx -e stderr -c {file} -g 'daemon off;'"),
            "QUIT",
        ),
        WebServer::Apache => (
            format!("/usr/sbin/apache2 -t -f {file}"),
            format!("/usr/sbin/apache2 -f {file} -DFOREGROUND"),
            "WINCH",
        ),
        WebServer::Caddy => (
            format!("/usr/bin/caddy validate --adapter caddyfile --config {file}"),
            format!("/usr/bin/caddy run --adapter caddyfile --config {file}"),
            "TERM",
        ),
    };
    // Caddy keeps its own state there, and not in the home of root.
    let environment = match set.server {
        WebServer::Nginx | WebServer::Apache => String::new(),
        WebServer::Caddy => format!("Environment=XDG_CONFIG_HOME={0} XDG_DATA_HOME={0}\n", set.run_dir),
    };
    fill_template(
        UNIT,
        &[
            ("project", project),
            ("role", role.as_str()),
            ("port", &port.to_string()),
            ("advice", &advice),
            ("order", &order),
            ("check", &check),
            ("start", &start),
            ("environment", &environment),
            ("signal", signal),
            ("run_dir", &set.run_dir),
            ("log_dir", &set.log_dir),
        ],
    )
}
