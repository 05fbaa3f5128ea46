//! The web servers that flags name.

use clap::ValueEnum;

use crate::model::deployment::WebServer;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WebServerArg {
    Nginx,
    Apache,
    Caddy,
}

impl From<WebServerArg> for WebServer {
    fn from(server: WebServerArg) -> Self {
        match server {
            WebServerArg::Nginx => Self::Nginx,
            WebServerArg::Apache => Self::Apache,
            WebServerArg::Caddy => Self::Caddy,
        }
    }
}
