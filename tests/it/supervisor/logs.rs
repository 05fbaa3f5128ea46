//! The output of an instance.

use super::*;

fn small() -> Yard {
    Yard::with(Tuning { log_bytes: 2000, log_files: 3, ..Tuning::default() })
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| format!("line {number}")).collect()
}

#[tokio::test]
async fn tail_is_exact_across_files_and_log_is_bounded() {
    let yard = small();
    let script = "i=0; while [ $i -lt 250 ]; do i=$((i+1)); echo line $i; done; echo end >&2; exec sleep 600";
    yard.runner.start(&yard.sh(script)).await.unwrap();
    until(async || yard.log(Some(1)).await == ["end"]).await;
    let all = yard.log(None).await;
    let first = 252 - u32::try_from(all.len()).unwrap();
    assert!(first > 1, "some were turned out");
    assert_eq!(all[..all.len() - 1], numbers(first..=250));
    for tail in [0, 1, 2, 50, 100, 101, 150, 100_000] {
        let lines = yard.log(Some(tail)).await;
        let skipped = all.len().saturating_sub(usize::try_from(tail).unwrap());
        assert_eq!(lines, all[skipped..], "{tail}");
    }
    let dir = yard.path("instances").join(ID);
    let sizes = ["log", "log.1", "log.2"].map(|name| std::fs::metadata(dir.join(name)).unwrap().len());
    assert!(sizes.iter().all(|size| *size <= 2000) && !dir.join("log.3").exists(), "{sizes:?}");
    yard.stop(LONG).await;
    assert_eq!(yard.log(None).await, all, "a stopped instance keeps its log");
    let (heard, lines) = listener();
    yard.runner.stream_logs(&id(), Some(1), true, heard).await.unwrap();
    let line = lines.lock().unwrap().pop().unwrap();
    line.split_once(' ').unwrap().0.parse::<jiff::Timestamp>().unwrap();
}

/// Slowly enough for a reader, who sees every line of many files.
#[tokio::test]
async fn follow_continues_across_files_until_instance_ends() {
    let yard = Arc::new(small());
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.002; done";
    yard.runner.start(&yard.sh(script)).await.unwrap();
    until(async || yard.log(None).await.len() > 10).await;
    let (heard, lines) = listener();
    let theirs = yard.clone();
    let follow = tokio::spawn(async move { theirs.runner.stream_logs(&id(), Some(3), true, heard).await });
    until(async || lines.lock().unwrap().len() > 500).await;
    yard.stop(LONG).await;
    tokio::time::timeout(BOUND, follow).await.expect("it follows for ever").unwrap().unwrap();
    let lines = lines.lock().unwrap().clone();
    let number = |line: &String| line.rsplit_once(' ').unwrap().1.parse::<u32>().unwrap();
    let first = number(&lines[0]);
    let found: Vec<u32> = lines.iter().map(number).collect();
    assert_eq!(found, (first..first + u32::try_from(lines.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(Some(found.last().unwrap()), yard.log(Some(1)).await.last().map(number).as_ref());
}

#[tokio::test]
async fn long_line_is_split_and_last_partial_line_is_kept() {
    let yard = Yard::new();
    let script = "head -c 20000 /dev/zero | tr '\\0' x; echo; printf rest; exec sleep 600";
    yard.runner.start(&yard.sh(script)).await.unwrap();
    until(async || yard.log(None).await.len() == 3).await;
    yard.stop(LONG).await;
    let lengths: Vec<usize> = yard.log(None).await.iter().map(String::len).collect();
    assert_eq!(lengths, [8192, 8192, 20000 - 2 * 8192, 4]);
}

/// An instance that writes at full speed: nothing piles up, the supervisor stays small, and a stop still takes effect.
#[tokio::test]
async fn endless_writer_waits_for_disk() {
    let yard = Yard::with(Tuning { log_bytes: 1_000_000, ..Tuning::default() });
    yard.runner.start(&yard.sh("seq 1 300000; exec yes")).await.unwrap();
    let dir = yard.path("instances").join(ID);
    until(async || yard.log(Some(1)).await == ["y"]).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", yard.keeper().unwrap())).unwrap();
    let rss = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    let kilobytes: u32 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 8 * 1024, "{rss}");
    yard.stop(LONG).await;
    let size: u64 =
        ["log", "log.1", "log.2"].map(|name| std::fs::metadata(dir.join(name)).unwrap().len()).iter().sum();
    assert!(size <= 3_000_000, "{size}");
}

#[tokio::test]
async fn unwritable_log_blocks_no_program() {
    let yard = Yard::new();
    yard.runner
        .start(&yard.sh("while [ ! -e go ]; do sleep 0.01; done; seq 1 300000; touch end; exec sleep 600"))
        .await
        .unwrap();
    // A directory in the place of the file cannot be written, by root either.
    std::fs::create_dir(yard.path("instances").join(ID).join("log")).unwrap();
    std::fs::write(yard.path("go"), "").unwrap();
    until(async || yard.path("end").exists()).await;
    std::fs::remove_dir(yard.path("instances").join(ID).join("log")).unwrap();
    assert_eq!(yard.stop(LONG).await, StopResult::Exited);
}
