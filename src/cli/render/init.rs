//! The result of `init`.

use std::fmt::Write as _;

use super::renderer::Renderer;
use crate::ops::init::InitReport;

impl Renderer {
    pub fn print_init(&self, written: &InitReport) {
        self.print("initialised", written, || format_init(written));
    }
}

fn format_init(written: &InitReport) -> String {
    let dir = written.dir.display();
    let mut text: String = written.files.iter().map(|file| format!("{dir}/{}\n", file.display())).collect();
    let _ = write!(
        text,
        "next: put in your addresses, then look for mistakes with\n  cd {dir} && switchman check --haproxy-cfg haproxy.cfg\n"
    );
    text
}
