use hyper::header::{HeaderName, HeaderValue};

use super::*;
use crate::model::example;

const COOKIE_NAME: &str = "swm_shop";

fn build_canary(percent: &str) -> Canary {
    example::make_canary(&"dp_0000000001".parse().unwrap(), percent)
}

fn build_headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn build_mark(name: &str, value: Option<&str>) -> Option<FieldMatch> {
    Some(FieldMatch { name: name.to_owned(), value: value.map(str::to_owned) })
}

fn chooses_canary(canary: &Canary, lines: &[(&str, &str)]) -> bool {
    choose_route(canary, COOKIE_NAME, &build_headers(lines), &mut ShareCounters::default()).is_canary
}

/// Rows: E4.
#[test]
fn canary_gets_exactly_100_of_400_requests_at_25_percent() {
    let mut shares = ShareCounters::default();
    let head = build_headers(&[]);
    let taken = (0..400)
        .filter(|_| choose_route(&build_canary("25"), COOKIE_NAME, &head, &mut shares).is_canary)
        .count();
    assert_eq!(taken, 100);
}

/// Rows: E7.
#[test]
fn header_without_value_matches_by_presence() {
    let marked = Canary { percent: None, header: build_mark("X-Mistery-Shopper", None), ..build_canary("0") };
    assert!(chooses_canary(&marked, &[("x-mistery-shopper", "")]));
    assert!(chooses_canary(&marked, &[("X-MISTERY-SHOPPER", "any value")]));
    assert!(!chooses_canary(&marked, &[("x-mystery-shopper", "1")]));
    let valued = Canary { header: build_mark("x-group", Some("beta")), ..marked };
    assert!(chooses_canary(&valued, &[("x-group", "alpha"), ("x-group", "beta")]));
    assert!(!chooses_canary(&valued, &[("x-group", "BETA")]) && !chooses_canary(&valued, &[("x-group", "")]));
}

#[test]
fn cookie_matches_by_exact_name() {
    let marked = Canary { percent: None, cookie: build_mark("beta", None), ..build_canary("0") };
    for (line, expected) in [
        ("a=1; beta=", true),
        ("beta", true),
        ("a=beta", false),
        ("Beta=1", false),
        ("xbeta=1;betax=2", false),
    ] {
        assert_eq!(chooses_canary(&marked, &[("cookie", line)]), expected, "{line}");
    }
    let valued = Canary { cookie: build_mark("beta", Some("yes")), ..marked };
    assert!(chooses_canary(&valued, &[("cookie", "a=b"), ("cookie", "beta=yes")]));
    assert!(!chooses_canary(&valued, &[("cookie", "beta=no")]));
}

#[test]
fn mark_takes_precedence_over_bucket() {
    let both =
        Canary { sticky: Some(Sticky::Cookie), header: build_mark("x-canary", None), ..build_canary("0") };
    assert!(chooses_canary(&both, &[("cookie", "swm_shop=9999"), ("x-canary", "")]));
}

#[test]
fn new_users_split_exactly_and_stay_assigned() {
    let (mut shares, mut buckets) = (ShareCounters::default(), Vec::new());
    let sticky = |percent: &str| Canary { sticky: Some(Sticky::Cookie), ..build_canary(percent) };
    for _ in 0..400 {
        let choice = choose_route(&sticky("25"), COOKIE_NAME, &build_headers(&[]), &mut shares);
        let bucket = choice.new_bucket.unwrap();
        assert_eq!(choice.is_canary, bucket < 2500);
        buckets.push(bucket);
    }
    let mut before = 0;
    for percent in ["0", "0.5", "10", "25", "26", "50", "99.99", "100"] {
        let mut count = 0;
        for bucket in &buckets {
            let cookie = format!("swm_shop={bucket}");
            let choice = choose_route(
                &sticky(percent),
                COOKIE_NAME,
                &build_headers(&[("cookie", &cookie)]),
                &mut shares,
            );
            assert_eq!(choice.new_bucket, None);
            assert_eq!(choice.is_canary, *bucket < percent.parse::<Percent>().unwrap().parts());
            count += usize::from(choice.is_canary);
        }
        assert!(count >= before, "{percent}");
        before = count;
        // Other shares than the one they came under find their users to within a few.
        let wanted = percent.parse::<Percent>().unwrap().ratio() * 400.0;
        assert!((f64::from(u32::try_from(count).unwrap()) - wanted).abs() <= 5.0, "{percent}: {count}");
    }
    assert_eq!(buckets.iter().filter(|bucket| **bucket < 2500).count(), 100);
}

#[test]
fn invalid_cookie_is_replaced() {
    let sticky = Canary { sticky: Some(Sticky::Cookie), ..build_canary("50") };
    for value in ["swm_shop=", "swm_shop=-1", "swm_shop=12345", "swm_shop=1e3", "swm_shop2=1", "swm_shop=１"]
    {
        let head = build_headers(&[("cookie", value)]);
        let choice = choose_route(&sticky, COOKIE_NAME, &head, &mut ShareCounters::default());
        assert!(choice.new_bucket.is_some(), "{value}");
    }
}

#[test]
fn hashed_user_stays_on_canary_while_share_grows() {
    let sticky =
        |percent: &str| Canary { sticky: Some(Sticky::Header("X-User".to_owned())), ..build_canary(percent) };
    let mut counts = [0; 3];
    for user in 0..2000 {
        let user = format!("user-{user}");
        let at = |percent| chooses_canary(&sticky(percent), &[("x-user", &user)]);
        let got = [at("10"), at("30"), at("90")];
        assert!(got.is_sorted(), "{user}");
        for (count, got) in counts.iter_mut().zip(got) {
            *count += i32::from(got);
        }
    }
    for (count, expected) in counts.into_iter().zip([200, 600, 1800]) {
        assert!((count - expected).abs() < 80, "{counts:?}");
    }
    // Fixed for ever: another hash would move users.
    assert_eq!([hash_to_bucket(b""), hash_to_bucket(b"user-1"), hash_to_bucket(b"alice")], HASHES);
}

#[test]
fn missing_sticky_header_falls_back_to_request_share() {
    let sticky = Canary { sticky: Some(Sticky::Header("x-user".to_owned())), ..build_canary("25") };
    let (mut shares, head) = (ShareCounters::default(), build_headers(&[]));
    let taken = (0..400).filter(|_| choose_route(&sticky, COOKIE_NAME, &head, &mut shares).is_canary).count();
    assert_eq!(taken, 100);
}

const HASHES: [Bucket; 3] = [3850, 1869, 8123];
