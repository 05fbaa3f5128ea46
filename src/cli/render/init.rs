//! The result of `init`.

use std::fmt::Write as _;

use super::renderer::Renderer;
use crate::ops::init::InitReport;

impl Renderer {
    pub fn print_init(&self, written: &InitReport, examples: ExampleAddresses) {
        self.print("initialised", written, || format_init(written, examples));
    }
}

/// Which addresses of the written files are those of an example.
#[derive(Debug, Clone, Copy)]
pub struct ExampleAddresses {
    pub hosts: bool,
    pub balancer: bool,
}

fn format_init(written: &InitReport, examples: ExampleAddresses) -> String {
    let dir = written.dir.display();
    let mut text: String = written.files.iter().map(|file| format!("{dir}/{}\n", file.display())).collect();
    let replace = match (examples.hosts, examples.balancer) {
        (true, true) => "replace the example addresses of the hosts and of the load balancer, then ",
        (true, false) => "replace the example addresses of the hosts, then ",
        (false, true) => "replace the example address of the load balancer, then ",
        (false, false) => "",
    };
    let _ = write!(
        text,
        "next: {replace}look for mistakes with\n  cd {dir} && switchman check --haproxy-cfg haproxy.cfg\n"
    );
    text
}
