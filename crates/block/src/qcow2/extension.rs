//! Header extensions: what follows the header in the first cluster.

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const BITMAPS: u32 = 0x2385_2875;

/// The extensions that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    pub backing_format: Option<String>,
    pub bitmaps: bool,
}

/// Reads the extensions that begin at `start` in the first cluster.
pub(crate) fn parse(cluster: &[u8], start: u64) -> Result<Extensions, String> {
    let mut found = Extensions::default();
    let mut rest = usize::try_from(start)
        .ok()
        .and_then(|start| cluster.get(start..))
        .unwrap_or_default();
    loop {
        let Some((head, data)) = rest.split_first_chunk::<8>() else {
            return Ok(found);
        };
        let [t0, t1, t2, t3, l0, l1, l2, l3] = *head;
        let kind = u32::from_be_bytes([t0, t1, t2, t3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if kind == END {
            return Ok(found);
        }
        let Some(content) = data.get(..len) else {
            return Err(format!(
                "a header extension ({kind:#x}) is longer than the first cluster"
            ));
        };
        match kind {
            BACKING_FORMAT => {
                let name = String::from_utf8(content.to_vec());
                found.backing_format = Some(name.map_err(|_| "its backing format is not UTF-8")?);
            }
            BITMAPS => found.bitmaps = true,
            _ => {}
        }
        rest = data.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
}
