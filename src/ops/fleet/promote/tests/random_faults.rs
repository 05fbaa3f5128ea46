//! Anything may happen at any time: what holds then.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Happens {
    Worse { error_every: u64 },
    Slower { us: u64 },
    Well,
    Quiet,
    Restart,
    Out { back_after: u64 },
    LinkCut { for_secs: u64 },
    AnswersLost(u32),
    Stop,
    Kill,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (2u64..300).prop_map(|error_every| Happens::Worse { error_every }),
        (20_000u64..60_000).prop_map(|us| Happens::Slower { us }),
        Just(Happens::Well),
        Just(Happens::Quiet),
        Just(Happens::Restart),
        (1u64..200).prop_map(|back_after| Happens::Out { back_after }),
        (1u64..100).prop_map(|for_secs| Happens::LinkCut { for_secs }),
        (1u32..4).prop_map(Happens::AnswersLost),
        Just(Happens::Stop),
        Just(Happens::Kill),
    ]
}

async fn happen(fake: &FakeSite, host: usize, what: Happens) {
    let name = HOSTS[host];
    let proxy = |change: &dyn Fn(&mut SiteProxy)| {
        fake.site.with_host(name, |host| {
            host.layer7.advance();
            change(&mut host.layer7);
        });
    };
    match what {
        Happens::Worse { error_every } => canary(fake, |canary| canary.error_every = error_every),
        Happens::Slower { us } => canary(fake, |canary| canary.latency_us = us),
        Happens::Well => canary(fake, |canary| (canary.error_every, canary.latency_us) = (0, 20_000)),
        Happens::Quiet => proxy(&|proxy| proxy.per_minute = 10),
        Happens::Restart => proxy(&SiteProxy::restart),
        Happens::Out { back_after } => {
            proxy(&|proxy| proxy.inserted = false);
            tokio::time::sleep(Duration::from_secs(back_after)).await;
            proxy(&|proxy| proxy.inserted = !proxy.traffic_split.is_empty());
        }
        Happens::LinkCut { for_secs } => {
            fake.site.with_host(name, |host| host.is_reachable = false);
            tokio::time::sleep(Duration::from_secs(for_secs)).await;
            fake.site.with_host(name, |host| host.is_reachable = true);
        }
        Happens::AnswersLost(number) => fake.site.with_host(name, |host| host.lost_answers = number),
        Happens::Stop => fake.stopper.stop(),
        Happens::Kill => {}
    }
}

/// Shares rise, also from one life of the operator's process to the next, and once taken away none is given in the same life.
fn never_back(fake: &FakeSite, lives: usize) {
    for host in HOSTS {
        let shares = fake.site.with_host(host, |host| host.layer7.shares.clone());
        // Ways back apart: a life that goes on begins where the one before was.
        let given: Vec<_> = shares.iter().flatten().collect();
        assert!(given.is_sorted(), "{host}: {shares:?}");
        let again = shares.windows(2).filter(|pair| pair[0].is_none() && pair[1].is_some()).count();
        assert!(again < lives, "{host}: {shares:?}");
    }
}

/// Runs the operator's process once; `None`: it was killed, or did not end in time.
async fn live(
    fake: &FakeSite,
    world: &FleetWorld,
    happenings: &[(usize, u64, Happens)],
    first: bool,
) -> Option<PromotionProgress> {
    let (work, actor) = (spec(), actor());
    let all = async {
        for (host, after, what) in happenings {
            tokio::time::sleep(Duration::from_secs(*after)).await;
            if matches!(what, Happens::Kill) {
                return;
            }
            happen(fake, *host, *what).await;
        }
        tokio::time::sleep(Duration::from_mins(20)).await;
    };
    let life = async {
        let (world, fleet) = (world, &fake.fleet);
        if first { run(world, fleet, &work, &actor).await } else { resume(world, fleet, &actor).await }
    };
    let ended = tokio::select! {
        ended = life => Some(ended.unwrap().progress),
        () = all => None,
    };
    for host in HOSTS {
        fake.site.with_host(host, |host| (host.is_reachable, host.lost_answers) = (true, 0));
    }
    if ended.is_none() {
        fake.journal.kill();
    }
    ended
}

/// Steps that passed stay passed, even if faults came between.
async fn walk(happenings: &[(usize, u64, Happens)], again: &[(usize, u64, Happens)]) {
    let fake = site(3, 1);
    let mut end = live(&fake, &fake.world, happenings, true).await;
    let is_finished =
        |end: &Option<PromotionProgress>| end.as_ref().is_some_and(PromotionProgress::is_finished);
    let mut lives = 1;
    if !is_finished(&end) {
        if let Some(stopped) = &end {
            // Only hosts that could not be reached still have a share.
            let left = shares(&fake).iter().flatten().count();
            assert!(left <= stopped.unreachable_hosts.len(), "{:?}", shares(&fake));
        }
        // Its stop was the first one's.
        let world = FleetWorld { stop: StopToken::without_handle(), ..fake.world.clone() };
        end = live(&fake, &world, again, false).await;
        lives = 2;
    }
    let end = match end {
        Some(end) if end.is_finished() => end,
        _ => abort(&fake.world, &fake.fleet, &actor()).await.unwrap().progress,
    };
    never_back(&fake, lives);
    assert_eq!(shares(&fake), [None; 3], "{end:?}");
    let main = if end.result == Some(PromotionResult::Promoted) { "2.0.0" } else { "1.0.0" };
    assert_eq!(mains(&fake), [main; 3], "{end:?}");
    assert_eq!(ready(fake.world.lock.read_holder()), Ok(None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_faults_end_with_intact_main_and_no_repeated_step(
        happenings in prop::collection::vec((0usize..3, 1u64..120, happens()), 0..6),
        again in prop::collection::vec((0usize..3, 1u64..120, happens()), 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(walk(&happenings, &again));
    }
}
