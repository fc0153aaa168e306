"""Where published shards lie: a folder, a web server, an S3 bucket, a repository of the Hugging Face hub."""

from manifests.stores.places import (
    CHUNK_BYTES as CHUNK_BYTES,
)
from manifests.stores.places import (
    KINDS as KINDS,
)
from manifests.stores.places import (
    LocalStore as LocalStore,
)
from manifests.stores.places import (
    Store as Store,
)
from manifests.stores.places import (
    StoreError as StoreError,
)
from manifests.stores.places import (
    TransientError as TransientError,
)
from manifests.stores.places import (
    UnreachableError as UnreachableError,
)
from manifests.stores.places import (
    is_remote as is_remote,
)
from manifests.stores.places import (
    open_store as open_store,
)
