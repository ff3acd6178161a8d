//! Records beside an image, kept from a task.
#![cfg(test)]

mod support;

use lunar_devices::Sidecar;
use support::on_reactor;

#[test]
fn a_task_keeps_and_forgets_a_record_without_holding_up_its_reactor() {
    on_reactor(|_| async move {
        let dir = tempfile::tempdir().expect("a directory");
        let sidecar = Sidecar::new(dir.path().join("record"), b"unit");
        sidecar
            .keep(b"kept".to_vec())
            .await
            .expect("it can be kept");
        assert_eq!(sidecar.load().expect("it is whole"), Some(b"kept".to_vec()));
        sidecar.forget().await.expect("it can be removed");
        assert_eq!(sidecar.load().expect("there is none"), None);

        let nowhere = Sidecar::new(dir.path().join("no/record"), b"unit");
        let error = nowhere.keep(Vec::new()).await.expect_err("no directory");
        assert!(error.to_string().contains("no/record: "), "{error}");
    });
}
