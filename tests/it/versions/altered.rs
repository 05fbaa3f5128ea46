//! A release whose files are changed on a host: `verify` names them, and neither a start nor an assign takes it, under load.

use switchman::lab::operator::LabTransport;

use super::{can_make_namespaces, deploy_shop, up, write_release};

#[tokio::test(flavor = "multi_thread")]
async fn changed_release_is_named_and_does_not_become_main() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("altered", LabTransport::Socket, 2).await;
    deploy_shop(&site, "4.0.0").await;
    deploy_shop(&site, "5.0.0").await;
    let text = site.well(&["verify"]).await;
    assert_eq!(text.matches(" unchanged\n").count(), 4, "{text}");

    let releases = site.lab.dir().join("web2/releases/shop/releases");
    let program = releases.join("5.0.0/serve.sh");
    let code = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, format!("{code}# one line more\n")).unwrap();
    std::fs::write(releases.join("4.0.0/cache"), "").unwrap();
    let verified = site.run(&["verify", "shop"]).await;
    assert_eq!(verified.status, 1, "{}", verified.stdout);
    assert!(
        verified.stdout.contains("web2 shop/5.0.0: `serve.sh` has other contents\n"),
        "{}",
        verified.stdout
    );
    assert!(verified.stdout.contains("web2 shop/4.0.0: `cache` was added\n"), "{}", verified.stdout);
    assert!(
        verified.stderr.contains("cannot confirm the files of shop/5.0.0 on `web2`: "),
        "{}",
        verified.stderr
    );
    site.well(&["verify", "shop", "4.0.0"]).await;
    site.well(&["verify", "shop", "--host", "web1"]).await;

    for strategy in ["flip", "rolling"] {
        let refused = site.run(&["assign", "shop", "5.0.0", "--strategy", strategy, "--yes"]).await;
        assert_ne!(refused.status, 0, "{strategy}: {}", refused.stdout);
        assert!(refused.stderr.contains("`serve.sh` has other contents"), "{strategy}: {}", refused.stderr);
        site.run(&["roll", "--abort"]).await;
        site.well(&["assign", "shop", "4.0.0", "--strategy", "flip", "--yes"]).await;
    }
    // The same code as a new release, and the version is fit again.
    let source = write_release(&site.lab, "5.0.0").unwrap().display().to_string();
    let update = site.run(&["update", "shop", "5.0.0", &source, "--", "sh", "serve.sh"]).await;
    assert_eq!(update.status, 0, "{}", update.stderr);
    let text = site.run(&["verify", "shop", "5.0.0"]).await;
    site.well(&["assign", "shop", "5.0.0", "--strategy", "flip", "--yes"]).await;
    site.answered_by("web2", "5.0.0").await;
    assert_eq!(text.status, 0, "{}{}", text.stdout, text.stderr);
    site.down_without_loss().await;
}
