use super::*;

fn read(text: &str) -> ProcessState {
    parse_process(
        &text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect(),
    )
}

/// As `systemctl show` of systemd 252 prints them.
#[test]
fn properties_map_to_process_state() {
    let at = |second| jiff::Timestamp::from_second(second).unwrap();
    let running = "ActiveState=active\nSubState=running\nMainPID=42\nNRestarts=3\nExecMainCode=0\n\
                   ExecMainStartTimestamp=Tue 2023-11-14 22:13:20 UTC\nStateChangeTimestamp=Tue 2023-11-14 22:13:21 UTC\nResult=success";
    assert_eq!(read(running), ProcessState::Running { pid: 42, since: at(1_700_000_000), restarts: 3 });
    let waiting = "ActiveState=activating\nSubState=auto-restart\nMainPID=0\nNRestarts=3\nExecMainCode=1\n\
                   ExecMainStatus=7\nStateChangeTimestamp=Tue 2023-11-14 22:13:21 UTC\nResult=exit-code";
    let last = "status 7".to_owned();
    assert_eq!(
        read(waiting),
        ProcessState::Waiting { since: at(1_700_000_001), restarts: 3, last_exit: last }
    );
    let stopped = "ActiveState=inactive\nMainPID=0\nExecMainCode=2\nExecMainStatus=9\n\
                   ExecMainExitTimestamp=Tue 2023-11-14 22:13:22 UTC\nResult=signal";
    let last = "signal 9".to_owned();
    assert_eq!(read(stopped), ProcessState::Stopped { since: Some(at(1_700_000_002)), last_exit: last });
    let never = "ActiveState=inactive\nMainPID=0\nExecMainCode=0\nExecMainExitTimestamp=\nResult=success";
    assert_eq!(read(never), ProcessState::Stopped { since: None, last_exit: "success".to_owned() });
}

fn make_spec(env: &[(&str, &str)]) -> InstanceSpec {
    InstanceSpec {
        id: "dp_0123456789-1".parse().unwrap(),
        service: "shop".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        argv: vec!["/bin/app".into()],
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        dir: "/srv/switchman/shop/releases/1.0.0".into(),
        user: None,
        account: None,
        sandbox: None,
        resources: crate::model::deployment::InstanceLimits::default(),
        grace: Duration::from_secs(10),
        stop_signal: crate::model::deployment::StopSignal::Term,
    }
}

struct Scene {
    dir: tempfile::TempDir,
    systemd: Systemd,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let environment = EnvironmentFiles::new(&dir.path().join("state"));
        let systemd = Systemd { unit_dir: dir.path().to_owned(), environment };
        Self { dir, systemd }
    }

    fn write(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        self.systemd.write_unit(spec, Path::new("/bin/app"))
    }

    fn unit(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("switchman-dp_0123456789-1.service")).unwrap()
    }
}

#[test]
fn values_are_in_a_file_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (scene, spec) = (Scene::new(), make_spec(&[("PORT", "9001"), ("TOKEN", "hunter2\nline 2")]));
    scene.write(&spec).unwrap();
    scene.write(&spec).unwrap();
    assert!(!scene.unit().contains("hunter2"), "{}", scene.unit());
    let file = scene.systemd.environment.path(&spec.id);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "TOKEN=\"hunter2\nline 2\"\n");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let other = scene.write(&make_spec(&[("PORT", "9001"), ("TOKEN", "hunter3")]));
    assert!(other.unwrap_err().to_string().contains("run in another way"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "TOKEN=\"hunter2\nline 2\"\n");
}

/// An instance that 0.1.0 started is adopted after an upgrade, and its values leave the unit.
#[test]
fn unit_with_the_values_in_it_is_replaced() {
    let (scene, spec) = (Scene::new(), make_spec(&[("PORT", "9001"), ("TOKEN", "hunter2")]));
    let old = unit::render_unit(&spec, Path::new("/bin/app"), ValueLocation::Unit).unwrap();
    assert!(old.contains("hunter2"));
    let file = scene.systemd.unit_path(&spec.id);
    std::fs::write(&file, &old).unwrap();
    let other = scene.write(&make_spec(&[("PORT", "9001"), ("TOKEN", "hunter3")]));
    assert!(other.unwrap_err().to_string().contains("run in another way"));
    assert_eq!(scene.unit(), old);
    scene.write(&spec).unwrap();
    assert!(!scene.unit().contains("hunter2"), "{}", scene.unit());
    assert_eq!(scene.systemd.environment.read(&spec.id).unwrap().as_deref(), Some("TOKEN=\"hunter2\"\n"));
}
