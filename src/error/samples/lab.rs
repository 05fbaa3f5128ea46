//! Samples of the errors of the rehearsal.

use super::{Sample, not_found, samples, secs, wrap};
use crate::lab::LabError;
use crate::lab::process::ProcessError;
use crate::sys::exec::ExecError;
use crate::templates::working_set::TemplateError;

fn list_exec_errors() -> Vec<Sample<ExecError>> {
    samples!(ExecError {
        Missing: [ExecError::Missing { program: "haproxy".into() }],
        NotRun: [ExecError::NotRun { program: "haproxy".into(), source: not_found() }],
        TimedOut: [ExecError::TimedOut { program: "ip".into(), waited: secs(10) }],
    })
}

pub(super) fn list_lab_errors() -> Vec<Sample<LabError>> {
    let mut all = samples!(LabError {
        Exec: [list_exec_errors().remove(0).1.into()],
        Command: [LabError::Command {
            command: "ip netns add swm-lab-web1".into(),
            status: 1,
            stderr: "Operation not permitted".into(),
        }],
        Files: [LabError::Files {
            verb: "write",
            path: "/tmp/swm-lab/haproxy.cfg".into(),
            source: not_found(),
        }],
        Template: [TemplateError { placeholder: "{{check_port}}".into() }.into()],
        Process: [ProcessError::StopTimedOut { name: "nginx".into() }.into()],
        InUse: [LabError::InUse { name: "lab".into() }],
        Up: [LabError::Up { name: "lab".into() }],
        Unknown: [
            LabError::Unknown { name: "lba".into(), known: vec!["lab".into(), "lab2".into()] },
            LabError::Unknown { name: "lab".into(), known: vec![] },
        ],
        NoPrivilege: [LabError::NoPrivilege { reason: "network namespaces are made by root".into() }],
        TimedOut: [LabError::TimedOut { condition: "copies".into(), waited: secs(20) }],
        Load: [LabError::Load { reason: "its thread panicked".into() }],
        Interrupted: [LabError::Interrupted],
    });
    let processes = samples!(ProcessError {
        Exec: [list_exec_errors().remove(0).1.into()],
        Log: [ProcessError::Log { path: "/tmp/swm-lab/nginx.log".into(), source: not_found() }],
        EndedEarly: [ProcessError::EndedEarly {
            name: "nginx".into(),
            log: "bind() to 0.0.0.0:80 failed".into(),
        }],
        StopTimedOut: [ProcessError::StopTimedOut { name: "nginx".into() }],
        TimedOut: [ProcessError::TimedOut { condition: "the socket of haproxy".into() }],
    });
    all.extend(wrap(list_exec_errors(), LabError::Exec));
    all.extend(wrap(processes, LabError::Process));
    all
}
