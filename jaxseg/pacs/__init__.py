"""Workers between jaxseg and a PACS: X-rays are fetched or received, segmented, and their results stored.

`exchange.py` has the images, the results and the errors; `state.py` remembers what was done; `worker.py` is the loop.
`dicomweb.py` finds, fetches and stores over HTTP; `listen.py` receives and `send.py` sends by the DIMSE services.
`results.py` and `objects.py` write DICOM SEG, Secondary Capture and Comprehensive SR with repeatable identifiers.
"""
