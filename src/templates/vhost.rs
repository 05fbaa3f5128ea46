//! The web server of one instance that is a directory: its configuration, from the templates in `vhosts/`, and how it is
//! run. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::working_set::{TemplateError, fill_template};
use crate::model::deployment::{InstanceId, StopSignal, WebServer};
use crate::model::ports::Port;

const NGINX: &str = include_str!("../../vhosts/nginx/instance.conf");
const APACHE: &str = include_str!("../../vhosts/apache/instance.conf");
const CADDY: &str = include_str!("../../vhosts/caddy/instance.Caddyfile");

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VhostError {
    /// The value has a character with a meaning of its own in one of the three languages.
    #[error(
        "{subject} `{}` does not fit into a vhost: only letters, digits and `/ . _ ~ + @ -` are allowed",
        .found.escape_debug()
    )]
    Character { subject: &'static str, found: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// A release that a web server of its own serves. Paths are absolute.
#[derive(Debug, Clone)]
pub struct Vhost {
    pub id: InstanceId,
    pub server: WebServer,
    /// On all addresses, IPv4 and IPv6.
    pub port: Port,
    /// The release's directory.
    pub root: PathBuf,
    /// The instance's own directory, for pid file, sockets and temporary files. The user who runs the server may write there;
    /// where that is root, the workers of nginx and Apache, which are not, may enter it and all above it.
    pub run_dir: PathBuf,
    /// The path of the health check; a query is left out.
    pub health_path: String,
}

impl Vhost {
    /// Name of the configuration file, which may lie in `run_dir`.
    pub const fn file_name(&self) -> &'static str {
        match self.server {
            WebServer::Nginx => "nginx.conf",
            WebServer::Apache => "apache.conf",
            WebServer::Caddy => "Caddyfile",
        }
    }

    /// Renders the configuration.
    pub fn render(&self) -> Result<String, VhostError> {
        let root = check_path("the directory", &self.root)?;
        let run_dir = check_path("the directory", &self.run_dir)?;
        let health_path = check_health_path(&self.health_path)?;
        // Of all that is allowed these two alone mean something in a regular expression.
        let health_regex = health_path.replace('.', "\\.").replace('+', "\\+");
        let (port, who) = (self.port.to_string(), self.id.to_string());
        let mut values = vec![("port", port.as_str()), ("root", &root), ("run_dir", &run_dir), ("who", &who)];
        let template = match self.server {
            WebServer::Nginx => {
                values.extend([("health_path", health_path.as_str()), ("workers", "auto")]);
                NGINX
            }
            WebServer::Apache => {
                values.push(("health_regex", &health_regex));
                APACHE
            }
            WebServer::Caddy => {
                values.push(("health_path", &health_path));
                CADDY
            }
        };
        Ok(fill_template(template, &values)?)
    }

    /// The server in the foreground, with the configuration in this file.
    pub fn argv(&self, file: &Path) -> Vec<String> {
        let file = file.to_string_lossy();
        let words: &[&str] = match self.server {
            // Without -e, nginx warns a plain user that /var/log/nginx is not writable.
            WebServer::Nginx => &["nginx", "-e", "stderr", "-c", &file, "-g", "daemon off;"],
            WebServer::Apache => &["apache2", "-f", &file, "-DFOREGROUND"],
            WebServer::Caddy => &["caddy", "run", "--config", &file, "--adapter", "caddyfile"],
        };
        words.iter().map(ToString::to_string).collect()
    }

    /// Returns the variables that the server needs in its environment.
    pub fn env(&self) -> BTreeMap<String, String> {
        let run_dir = self.run_dir.to_string_lossy();
        let names: &[&str] = match self.server {
            WebServer::Nginx | WebServer::Apache => &[],
            // The directories of Caddy's own state: not in the home of the user who runs it.
            WebServer::Caddy => &["XDG_CONFIG_HOME", "XDG_DATA_HOME"],
        };
        names.iter().map(|name| ((*name).to_owned(), run_dir.clone().into_owned())).collect()
    }

    /// Returns the signal that lets the server finish its requests.
    pub const fn stop_signal(&self) -> StopSignal {
        match self.server {
            WebServer::Nginx => StopSignal::Quit,
            WebServer::Apache => StopSignal::Winch,
            WebServer::Caddy => StopSignal::Term,
        }
    }
}

/// Without its query.
pub fn check_health_path(path: &str) -> Result<String, VhostError> {
    let path = path.split('?').next().unwrap_or_default();
    check_characters("the health check's path", path.to_owned())
}

/// Refuses a path with a character that means something in a configuration file or a unit.
pub fn check_path(subject: &'static str, path: &Path) -> Result<String, VhostError> {
    check_characters(subject, path.to_string_lossy().into_owned())
}

fn check_characters(subject: &'static str, text: String) -> Result<String, VhostError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._~+@-".contains(c);
    if text.starts_with('/') && text.chars().all(plain) {
        Ok(text)
    } else {
        Err(VhostError::Character { subject, found: text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vhost_refuses_special_characters() {
        let vhost = Vhost {
            id: "dp_0123456789-1".parse().unwrap(),
            server: WebServer::Nginx,
            port: Port::new(9001).unwrap(),
            root: "/srv/switchman/shop/releases/1.0.0-rc.1+5~2".into(),
            run_dir: "/run/switchman/dp_0123456789-1".into(),
            health_path: "/health?full=1".into(),
        };
        for server in [WebServer::Nginx, WebServer::Apache, WebServer::Caddy] {
            let text = Vhost { server, ..vhost.clone() }.render().unwrap();
            assert!(text.contains("9001") && !text.contains("full"), "{text}");
        }
        for bad in ["/srv/a b", "/srv/a;b", "/srv/$a", "/srv/{a}", "/srv/\"a", "/srv/a\nb", "srv", "/srv/a\\"]
        {
            let wrong = [
                Vhost { root: bad.into(), ..vhost.clone() },
                Vhost { run_dir: bad.into(), ..vhost.clone() },
                Vhost { health_path: bad.into(), ..vhost.clone() },
            ];
            assert!(wrong.iter().all(|vhost| vhost.render().is_err()), "{bad}");
        }
    }
}
