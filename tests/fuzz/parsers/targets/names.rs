//! Words that people and other programs give: each value that is accepted is read back from its own text.

#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use switchman::model::agent_check::Weight;
use switchman::model::deployment::DeploymentId;
use switchman::model::field::Field;
use switchman::model::name::{HostName, ServiceName};
use switchman::model::percent::Percent;
use switchman::model::ports::Port;
use switchman::model::promote::{Ratio, Steps};
use switchman::model::roll::{Batch, RollId};
use switchman::model::version::Version;

fn read_back<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        assert!(written.parse::<T>().is_ok_and(|again| again == value), "{text:?} -> {written:?}");
    }
}

fuzz_target!(|text: &str| {
    read_back::<ServiceName>(text);
    read_back::<HostName>(text);
    read_back::<Port>(text);
    read_back::<Version>(text);
    read_back::<Percent>(text);
    read_back::<DeploymentId>(text);
    read_back::<Steps>(text);
    read_back::<Ratio>(text);
    read_back::<Batch>(text);
    read_back::<RollId>(text);
    read_back::<Weight>(text);
    read_back::<Field>(text);
    let _ = switchman::model::duration::parse(text);
    let _ = switchman::plan::versions::parse_local_port(text, [10, 0, 0, 1].into());
});
